"""Maps in both layouts and the three types, for the tests of the kernels."""

from __future__ import annotations

import torch

LAYOUTS = {"nhwc": 0, "nchw": 1}
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# Largest error against the largest value; float32 sums, one rounding to the type of the map.
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def memory_format(layout):
    return torch.channels_last if layout == "nhwc" else torch.contiguous_format


def image(shape, layout, dtype=torch.float32, scale=1.0, shift=0.0):
    """Random numbers, rounded to the type, in the layout's order of memory."""
    x = torch.randn(shape) * scale + shift
    return x.to(dtype).contiguous(memory_format=memory_format(layout))


def unset(shape, layout, dtype=torch.float32):
    """A map for a kernel to write: full of NaN."""
    return image(shape, layout).mul_(float("nan")).to(dtype)


def shape_of(tensor, layout):
    """The fields of a PyconvoptMap."""
    batch, channels, height, width = tensor.shape
    return {
        "batch": batch,
        "channels": channels,
        "height": height,
        "width": width,
        "layout": LAYOUTS[layout],
        "type": TYPES[tensor.dtype],
    }


def assert_close(ours, wanted, bound=None):
    """Largest error against the largest value."""
    assert ours.shape == wanted.shape
    bound = BOUNDS[ours.dtype] if bound is None else bound
    scale = max(wanted.abs().max().item(), 1e-30)
    error = (ours.double() - wanted.double()).abs().max().item()
    assert error <= bound * scale, f"error {error:.2e} of {scale:.2e}"
