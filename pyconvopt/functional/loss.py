"""Cross-entropy of softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import explanation
from ..autograd.cross_entropy import REDUCTIONS, CrossEntropyFunction, loss_and_gradient
from ..plans import TORCH
from .gate import needs_gradient, suits

# Fewer logits than this are torch's: a node of Python costs 6 µs more than torch's own two, which the
# kernel saves from here on. Rows shorter than torch's vectors it takes element by element, 15 ns each.
SMALLEST, SMALLEST_NARROW = 24000, 512
NARROW = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``−log softmax(input)[target]``; arguments, shapes and errors as ``torch.nn.functional.cross_entropy``.

    With class weights w and label smoothing s over C classes a row of class t has, with p = softmax,
    the loss ``(1 − s) · w_t · (−log p_t) + s/C · Σ_c w_c · (−log p_c)``; ``reduction="mean"`` divides the sum
    by Σ w_t over the rows whose target is not `ignore_index`.

    Float32 logits (N, C) on the CPU, or (N, C, H, W) in channels_last, with class numbers (int64) run on
    one kernel that makes the gradient with the loss, where there are 24000 logits (512 in rows shorter
    than torch's vectors). Fewer, class probabilities, other types and layouts and a gradient of the
    gradient are torch's. Errors beside float64: of a loss at most 2e-6 of the largest difference between
    logits of a row, of a gradient at most 2e-6 of its row's largest weight.

    Raises:
        IndexError: a target is neither a class nor `ignore_index`.

    >>> import torch, pyconvopt as pco
    >>> pco.functional.cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1]))
    tensor(0.3466)
    """
    rows = _rows(input, target, weight, label_smoothing)
    if (
        rows is None
        or size_average is not None
        or reduce is not None
        or reduction not in REDUCTIONS
    ):
        try:
            loss = F.cross_entropy(
                input,
                target,
                weight,
                size_average,
                ignore_index,
                reduce,
                reduction,
                label_smoothing,
            )
        except IndexError as error:
            if "is out of bounds" not in str(error):
                raise
            known = f"classes are 0 ... {input.shape[-1 if input.dim() < 2 else 1] - 1}"
            message = f"{str(error).rstrip('.')}: {known}, or ignore_index {ignore_index}"
            raise IndexError(message) from None
        kernel, reason = TORCH, "few logits, or no dense float32 logits with class numbers"
    else:
        options = (REDUCTIONS.index(reduction), ignore_index, label_smoothing)
        loss = _loss(rows, target, weight, options)
        kernel, reason = "softmax_rows", "one exponential an element for loss and gradient"
    if explanation.listening():
        for pass_ in ("forward", "backward"):
            flops = 20 * input.numel()
            explanation.note("cross_entropy", pass_, kernel, reason, flops, [input, target])
    return loss


def _rows(
    input: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float
) -> Tensor | None:
    """The logits as a contiguous matrix (rows, classes) if the kernel takes the call and is faster."""
    dimensions, logits = input.dim(), input.numel()
    if (
        logits < SMALLEST_NARROW
        or dimensions not in (2, 4)
        or (logits < SMALLEST and input.shape[1] >= NARROW)
        or not input.is_cpu
        or target.dtype is not torch.int64
        or target.dim() != dimensions - 1
        or target.numel() * input.shape[1] != logits
        or not target.is_cpu
        or not suits(input)
        or not 0 <= label_smoothing <= 1
    ):
        return None
    if weight is not None and (
        weight.dtype is not torch.float32
        or not weight.is_cpu
        or weight.shape != input.shape[1:2]
        or not weight.is_contiguous()
        or weight.requires_grad
    ):
        return None
    if dimensions == 2:
        return input if input.is_contiguous() else None
    rows = input.movedim(1, -1)
    fits = rows.is_contiguous() and target.shape == rows.shape[:-1]
    return rows.view(-1, input.shape[1]) if fits else None


def _loss(
    rows: Tensor, target: Tensor, weight: Tensor | None, options: tuple[int, int, float]
) -> Tensor:
    labels = target.contiguous() if target.dim() == 1 else target.reshape(-1)
    try:
        if needs_gradient(rows):
            loss = CrossEntropyFunction.apply(rows, labels, weight, options)
        else:
            loss, _ = loss_and_gradient(rows, labels, weight, *options, False)
    except RuntimeError as error:
        _, found, message = str(error).partition("\n")[0].partition("Target ")
        if found:
            raise IndexError(found + message) from None  # as torch has it
        raise
    return loss.view(target.shape) if loss.dim() and target.dim() > 1 else loss
