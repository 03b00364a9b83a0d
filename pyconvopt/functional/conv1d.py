"""One-dimensional convolution: the two-dimensional one on maps of height 1."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..memory import is_channels_last
from .conv import conv2d
from .gate import Activation, Size, activate


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
        (N, K, L'), L' = ⌊(L + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1.

    Raises:
        RuntimeError: torch's errors for shapes that do not fit.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.conv1d(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding=1)
    tensor([[[2., 3., 3., 2.]]])
    """
    numbers = [_single(value) for value in (stride, padding, dilation)]
    shaped = input.dim() == 3 and weight.dim() == 3 and None not in numbers
    # From (N, C, L) in its own order the way to channels_last and back costs what is gained.
    if not shaped or not is_channels_last(input.unsqueeze(2)):
        y = F.conv1d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
        return activate(y, activation)
    step, border, spread = numbers
    y = conv2d(
        input.unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        (1, step),
        border if isinstance(border, str) else (0, border),
        (1, spread),
        groups,
        activation=activation,
    )
    return y.squeeze(2)


def _single(value: Any) -> Any:
    """The number of ``3`` or ``(3,)``, a padding's name, or None for what torch is to refuse."""
    if isinstance(value, int | str):
        return value
    return value[0] if len(value) == 1 else None
