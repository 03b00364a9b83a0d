"""Which kernel each pass of a convolution runs on: this library's where it is the faster, or torch's."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from . import _C, settings

PASSES = ("forward", "data_gradient", "weight_gradient")
POOLED = tuple(f"{name}_pool" for name in PASSES)
"""The same together with a 2×2 max-pool behind the convolution."""
TORCH = "torch"
REFERENCE = "reference"


class ConvSize(NamedTuple):
    """What decides whether a kernel beats torch's: of the input map, and of the filter."""

    elements: int
    taps: int
    channels: int
    """The fewer of the input's and the output's."""
    strided: bool
    groups: int


def _always(pass_: str, size: ConvSize) -> bool:
    return True


def _direct(pass_: str, size: ConvSize) -> bool:
    """1×1 and strided filters (those Winograd leaves): 1.0 to 1.6 times as fast as torch's on AVX-512.

    Both run at up to four fifths of the multipliers' peak, torch's slower where the caches are cold, faster
    with 5×5 and larger filters (by 1.1 to 2), few channels, small groups, and small maps read with a stride.
    """
    if size.groups > 1 or size.channels < 24:
        return False
    if size.taps == 1:
        return True
    if not size.strided or size.taps > 9:
        return False
    return not pass_.startswith("forward") or size.elements >= 1 << 20


# Kernels of this library that are not always the faster choice: where the rule says no, torch's is
# called, and these serve the numpy entries.
FASTER_THAN_TORCH = {"direct": _direct}


class ConvPlan(NamedTuple):
    """What a convolution of given shapes runs on: kernel names by pass, ``"torch"`` where none."""

    hyper: tuple[int, int, int, int, int, int, int]
    """stride, padding and dilation (height, width each), groups: the operators' arguments."""
    forward: str
    data_gradient: str
    weight_gradient: str
    forward_pool: str
    data_gradient_pool: str
    weight_gradient_pool: str
    reasons: tuple[str, ...]
    """One for each of these six."""
    out_size: tuple[int, int]
    moments: bool
    """Whether this library's forward takes the statistics of its output in the same pass."""
    normalizes: bool
    """Whether its forward and weight gradient normalise their input while they read it."""
    one_pass: bool
    """Whether there is a kernel of both gradients, which makes that of a batch norm behind on its way."""

    @property
    def native(self) -> bool:
        """Whether any pass has a kernel of this library."""
        return not (self.forward == self.data_gradient == self.weight_gradient == TORCH)

    @property
    def joins_norm(self) -> bool:
        """Whether the kernels chosen do."""
        return self.normalizes and TORCH not in (self.forward, self.weight_gradient)

    @property
    def joins_gradients(self) -> bool:
        """Whether that one takes their place behind a convolution that a batch norm alone reads."""
        return self.one_pass and TORCH not in (self.data_gradient, self.weight_gradient)

    @property
    def why(self) -> dict[str, str]:
        """The reasons by pass."""
        return dict(zip((*PASSES, *POOLED), self.reasons, strict=True))


def conv_plan(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    on_cuda: bool = False,
) -> ConvPlan | None:
    """The kernels for a convolution, or None where torch is to judge the arguments (and to refuse).

    Cached by shapes and by the state of `pyconvopt.settings`.
    """
    return _conv_plan(
        tuple(input_shape),
        tuple(weight_shape),
        stride,
        padding,
        dilation,
        groups,
        on_cuda,
        settings.generation(),
    )


@lru_cache(maxsize=4096)
def _conv_plan(input_shape, weight_shape, stride, padding, dilation, groups, on_cuda, generation):
    batch, channels, height, width = input_shape
    out_channels, group_channels, *kernel = weight_shape
    if (
        min(*stride, *dilation, groups) <= 0
        or max(*stride, *dilation, *padding) >= 1 << 31
        or min(padding) < 0
        or group_channels * groups != channels
        or out_channels % groups
        or min(batch, channels, height, width, out_channels, *kernel) == 0
    ):
        return None
    out_size = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((height, width), padding, dilation, kernel, stride, strict=True)
    )
    if min(out_size) <= 0:
        return None
    hyper = (*stride, *padding, *dilation, groups)
    if on_cuda:
        return _cuda_conv_plan(input_shape, weight_shape, hyper, out_size)
    size = ConvSize(
        batch * channels * height * width,
        kernel[0] * kernel[1],
        min(channels, out_channels),
        max(stride) > 1,
        groups,
    )
    chosen, reasons = [], []
    for name in (*PASSES, *POOLED):
        kernel_name, reason = own_kernel(name, input_shape, weight_shape, hyper)
        if kernel_name == REFERENCE:
            kernel_name, reason = TORCH, "no kernel of this library takes this shape yet"
        elif not FASTER_THAN_TORCH.get(kernel_name, _always)(name, size):
            kernel_name, reason = TORCH, f"torch's own is faster than {kernel_name!r} here"
        chosen.append(kernel_name)
        reasons.append(reason)
    moments, *normalizes = (
        REFERENCE
        != own_kernel(name, input_shape, weight_shape, hyper)[0]
        == own_kernel(f"{name}_{also}", input_shape, weight_shape, hyper)[0]
        for name, also in (
            ("forward", "moments"),
            ("forward", "normalized"),
            ("weight_gradient", "normalized"),
        )
    )
    one_pass = own_kernel("gradients", input_shape, weight_shape, hyper)[0] != REFERENCE
    if one_pass and TORCH not in chosen[1:3]:
        for place in (1, 2):
            reasons[place] += (
                "; both gradients in one pass where a batch norm alone reads the output"
            )
    return ConvPlan(hyper, *chosen, tuple(reasons), out_size, moments, all(normalizes), one_pass)


def own_kernel(
    pass_: str, input_shape: tuple[int, ...], weight_shape: tuple[int, ...], hyper: tuple[int, ...]
) -> tuple[str, str]:
    """This library's kernel for a pass, however fast, and why: ``"reference"`` where none is made for it."""
    filters, _, *taps = weight_shape
    down, right, rows, columns, *dilation, groups = hyper
    problem: Any = (*input_shape, filters, taps, (down, right), (rows, columns), dilation, groups)
    return _C.choose_conv(pass_, *problem)


def torch_overruns(weight_shape: tuple[int, ...], stride: tuple[int, int]) -> bool:
    """Whether oneDNN's weight gradient of such a filter writes past its buffer.

    It does for channels_last maps of fewer than 16 channels
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    return tuple(weight_shape[2:]) == (1, 1) and weight_shape[1] < 16 and stride != (1, 1)


def _cuda_conv_plan(input_shape, weight_shape, hyper, out_size) -> ConvPlan:
    """Depthwise on the plug-in, dense on torch's cuDNN, or on the plug-in where settings say so."""
    batch, channels, *size = input_shape
    kernel, reason = "cuda_depthwise", "groups = channels: one pass over the map"
    if not (hyper[-1] == channels == weight_shape[0]):
        kernel, reason = "cuda_implicit_gemm", 'settings(cuda_conv="native")'
        if settings.cuda_conv() == "cudnn":
            kernel, reason = TORCH, 'torch\'s cuDNN, by settings(cuda_conv="cudnn")'
    if (
        batch * max(math.prod(size), math.prod(out_size)) >= 1 << 30
        or max(*hyper, *weight_shape) >= 1 << 15
    ):
        kernel, reason = TORCH, "larger than the plug-in counts"
    moments = kernel == "cuda_implicit_gemm"
    reasons = (reason,) * 6
    pooled = (TORCH,) * 3
    return ConvPlan(hyper, *(kernel,) * 3, *pooled, reasons, out_size, moments, False, False)
