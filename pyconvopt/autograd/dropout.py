"""Dropout whose mask is made again in backward from its key, not stored."""

from __future__ import annotations

import torch
from torch.autograd import Function

from .reference import is_batched

_ops = {
    False: torch.ops.pyconvopt.dropout.default,
    True: torch.ops.pyconvopt.dropout_channels.default,
}


class DropoutFunction(Function):
    """``x · multiplier(seed, element)``: linear in x, so its gradient is the function itself."""

    @staticmethod
    def forward(ctx, x, p, seed, channels):  # noqa: D102
        ctx.key, ctx.strides, ctx.four = (p, seed, channels), x.stride(), x.dim() == 4
        return _ops[channels](x, p, seed, 0)

    @staticmethod
    def backward(ctx, g):  # noqa: D102
        if is_batched(g):
            ones = torch.empty_strided(g.shape, ctx.strides, device=g.device).fill_(1)
            return g * _ops[ctx.key[2]](ones, *ctx.key[:2], 0), None, None, None
        if g.stride() != ctx.strides:  # the mask is by the order in memory
            g = torch.empty_strided(g.shape, ctx.strides).copy_(g)
        return DropoutFunction.apply(g, *ctx.key), None, None, None
