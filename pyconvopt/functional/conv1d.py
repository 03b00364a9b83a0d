"""One-dimensional convolution: the two-dimensional one on maps of height 1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory import is_channels_last
from .conv import conv2d
from .gate import Activation, Size, activate, suits, whole
from .order import in_order


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: Activation = None,
) -> Tensor:
    """1-D convolution, ``y[n,k] = b[k] + Σ_c w[k,c] ⋆ x[n,c]``, by `conv2d` on maps of height 1.

    Sequences that lie as (N, L, C) in memory run on the kernels here, others on torch's.

    Args:
        input: (N, C, L) or (C, L).
        weight: (K, C / groups, R).
        bias: (K), or None.
        stride, padding, dilation, groups: as ``torch.nn.functional.conv1d``.
        activation: None, ``"relu"`` (fused with the bias), or a callable applied to the result.

    Returns:
        (N, K, L'), L' = ⌊(L + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1, contiguous as torch's;
        as (N, L', K) in memory where the weight lies as (K, R, C / groups).

    Raises:
        RuntimeError, TypeError: torch's, for shapes that do not fit and arguments that it does not take.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.conv1d(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding=1)
    tensor([[[2., 3., 3., 2.]]])
    """
    numbers = [_single(value) for value in (stride, padding, dilation)]
    fits = suits(input) and suits(weight) and input.dim() == weight.dim() == 3
    # From (N, C, L) in its own order the way to channels_last and back costs what is gained.
    if not fits or None in numbers or not is_channels_last(input.unsqueeze(2)):
        geometry: Any = {"stride": stride, "padding": padding, "dilation": dilation}
        y = F.conv1d(input, weight, bias, **geometry, groups=groups)
        return activate(y, activation)
    step, border, spread = numbers
    x, filters = input.unsqueeze(2), weight.unsqueeze(2)
    channels_last = is_channels_last(filters)
    result_order = torch.channels_last if channels_last else torch.contiguous_format
    y = conv2d(
        in_order(x, torch.channels_last, result_order),
        filters,
        bias,
        (1, step),
        border if isinstance(border, str) else (0, border),
        (1, spread),
        groups,
        activation=activation,
    )
    return y.squeeze(2) if channels_last else y.squeeze(2).contiguous()


def _single(value: Any) -> Any:
    """The number of ``3`` or ``(3,)``, a padding's name, or None for what is torch's to refuse."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        return whole(value[0]) if len(value) == 1 else None
    return whole(value)
