"""Comparing a module of ours with torch's."""

from __future__ import annotations

import torch


def assert_same(ours, wanted, bound=1e-4):
    """Equal within `bound` of the wanted values' RMS, NaN at the same places."""
    assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
    nan = torch.isnan(wanted)
    assert torch.equal(torch.isnan(ours), nan)
    ours, wanted = ours.double()[~nan], wanted.double()[~nan]
    if wanted.numel():
        scale = wanted.square().mean().sqrt().item() or 1.0
        error = (ours - wanted).abs().max().item()
        assert error <= bound * scale, f"max error {error / scale:.2e} of the RMS"


def same_layout(a, b):
    """Whether the strides agree where they mean anything: in dimensions longer than one."""
    return [s for s, n in zip(a.stride(), a.shape, strict=True) if n > 1] == [
        s for s, n in zip(b.stride(), b.shape, strict=True) if n > 1
    ]


def assert_same_step(ours, theirs, x, bound=1e-4):
    """Output, its layout, buffers, and the gradients of input and parameters."""
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = ours(ours_x), theirs(theirs_x)
    assert_same(y, wanted, bound)
    assert same_layout(y, wanted)
    g = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(77)).to(wanted.dtype)
    y.backward(g)
    wanted.backward(g)
    assert_same(ours_x.grad, theirs_x.grad, bound)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_same(p.grad, q.grad, bound)
        assert same_layout(p.grad, p), name
    for b, c in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_same(b, c, 1e-5)


def kept_for_backward(run):
    """What `run` returns, and the bytes of each piece of memory that autograd keeps of it."""
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = run()
    return result, list(kept.values())
