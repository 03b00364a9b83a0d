"""Convolution, normalisation, activation and dropout as one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from typing_extensions import override

from .. import functional
from ..hooks import has_hooks
from .activation import ReLU
from .batchnorm import BatchNorm2d
from .conv import Conv2d
from .dropout import Dropout

FUSED: dict[type, str] = {
    ReLU: "relu",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
}
"""The activations that are part of the pass, as `functional.batch_norm` takes them."""


class ConvNormAct(nn.Sequential):
    """y = dropout(activation(norm(conv(x)) [+ residual])), in training one fused pass.

    A ``Sequential`` of its parts: `conv`, then as far as there are any `norm`, `activation` and
    `dropout`, under the keys of torchvision's ``Conv2dNormActivation`` (``0.weight``, ``1.weight``,
    ...), whose weights load. The parts may be replaced, frozen and hooked as those of any
    ``Sequential``; what the fused step does not know runs part by part. `accelerate` looks inside
    and joins the parts with their neighbours. Formula of the step:
    `pyconvopt.functional.conv_norm_act`.

    Args:
        in_channels, out_channels, kernel_size (3), stride (1), padding (None: as much as keeps the
            size at stride 1), groups (1), dilation (1): the convolution's.
        norm_layer: makes the normalisation from the number of channels (BatchNorm2d); None: none.
        activation_layer: makes the activation (ReLU); None: none.
        inplace: given to `activation_layer` (True); None: it takes no such argument.
        bias: of the convolution (None: where there is no normalisation).
        dropout: the share of elements dropped at the end in training (0).

    Shapes: (N, C, H, W) to (N, K, H', W') as `Conv2d`; the residual has the result's shape.

    >>> import torch, pyconvopt as pco
    >>> block = pco.nn.ConvNormAct(3, 16, stride=2, dropout=0.1)
    >>> block(torch.randn(2, 3, 8, 8)).shape, list(block.state_dict())[:2]
    (torch.Size([2, 16, 4, 4]), ['0.weight', '1.weight'])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str | None = None,
        groups: int = 1,
        norm_layer: Callable[..., nn.Module] | None = BatchNorm2d,
        activation_layer: Callable[..., nn.Module] | None = ReLU,
        dilation: int | tuple[int, int] = 1,
        inplace: bool | None = True,
        bias: bool | None = None,
        dropout: float = 0.0,
    ) -> None:
        if padding is None:
            padding = same_size(kernel_size, dilation)
        bias = norm_layer is None if bias is None else bias
        geometry = kernel_size, stride, padding, dilation, groups
        parts: dict[str, nn.Module] = {"conv": Conv2d(in_channels, out_channels, *geometry, bias)}
        if norm_layer is not None:
            parts["norm"] = norm_layer(out_channels)
        if activation_layer is not None:
            options = {} if inplace is None else {"inplace": inplace}
            parts["activation"] = activation_layer(**options)
        if dropout:
            parts["dropout"] = Dropout(dropout)
        super().__init__(*parts.values())
        self.parts = tuple(parts)
        self.out_channels = out_channels

    @override
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        parts = dict(zip(self.parts, self, strict=False))
        if self.joins(parts, input):
            y = joined(parts, input, residual)
        else:
            y = parts["conv"](input)
            y = parts["norm"](y) if "norm" in parts else y
            y = y if residual is None else y + residual
            for name in ("activation", "dropout"):
                y = parts[name](y) if name in parts else y
        for appended in [*self][len(self.parts) :]:
            y = appended(y)
        return y

    @override
    def __getitem__(self, idx: Any) -> Any:
        return nn.Sequential(*[*self][idx]) if isinstance(idx, slice) else super().__getitem__(idx)

    def joins(self, parts: dict[str, nn.Module], input: Tensor) -> bool:
        """Whether they are the fused step's, and nobody looks at one of them alone."""
        conv, drop = parts["conv"], parts.get("dropout")
        return (
            not issubclass(type(input), Proxy)  # a graph is of the parts, which `accelerate` joins
            and type(conv) is Conv2d
            and type(parts.get("norm")) is BatchNorm2d
            and (drop is None or type(drop) is Dropout)
            and conv.padding_mode == "zeros"
            and input.dim() == 4
            and not any(map(has_hooks, self))
            and not torch.compiler.is_compiling()
        )


def joined(parts: dict[str, Any], input: Tensor, residual: Tensor | None) -> Tensor:
    """The fused step of these parts."""
    conv, norm = parts["conv"], parts["norm"]
    activation, drop = parts.get("activation"), parts.get("dropout")
    mean, var, use_batch, momentum = norm.statistics()
    return functional.conv_norm_act(
        input, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups,
        running_mean=mean, running_var=var, norm_weight=norm.weight, norm_bias=norm.bias,
        training=use_batch, momentum=momentum, eps=norm.eps, residual=residual,
        activation=None if activation is None else FUSED.get(type(activation), activation),
        dropout=drop.p if drop is not None and drop.training else 0.0,
    )  # fmt: skip


def same_size(
    kernel_size: int | Sequence[int], dilation: int | Sequence[int]
) -> int | tuple[int, int]:
    """The padding with which a window of odd size and stride 1 keeps a map's size.

    >>> same_size(3, 1), same_size((1, 7), 1), same_size(3, 2)
    (1, (0, 3), 2)
    """
    if isinstance(kernel_size, int) and isinstance(dilation, int):
        return (kernel_size - 1) // 2 * dilation
    sizes = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    steps = (dilation,) * 2 if isinstance(dilation, int) else dilation
    return (sizes[0] - 1) // 2 * steps[0], (sizes[1] - 1) // 2 * steps[1]
