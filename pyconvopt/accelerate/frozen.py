"""Convolutions of a frozen model: everything that rests on weights and shapes alone is done once.

Batch norms are folded, kernels chosen and weights prepared (Winograd's transform, or the panels of the
direct product) at the second call with inputs of one shape; from then on convolutions that follow one
another, with their biases, residuals, activations and pools, are one call into C++. So are the mean over
the map and dense layers (frozen_head.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .. import _C, plans, trials
from ..autograd.norm import NAMES
from ..functional.conv_norm_act import fold
from ..functional.gate import pair, takes
from ..memory import is_channels_last
from .operations import NORMALIZATION, POOL

if TYPE_CHECKING:
    from .fusion import Chain

KEPT = 16
"""Shapes of inputs whose kernels and weights are kept."""
NONE = -1
_address = methodcaller("data_ptr")


@dataclass
class FrozenConvolution:
    """The step of a chain that begins with a convolution; `otherwise` computes it on any tensor.

    extra: the arguments of `otherwise` beside the map and the residual, as of ``F.conv2d``.
    """

    chain: Chain
    otherwise: Callable[..., Any]
    extra: Sequence[Any] = ()
    folded: tuple[Tensor, Tensor | None] | None = None

    def bound(self) -> Any:
        """Weight, bias, stride, padding, dilation and groups."""
        return self.chain.first.bind(*self.extra[: len(self.chain.first.extra)])

    def constants(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias, batch norm folded in; None where that normalises by the batch."""
        if self.folded is None:
            weight, bias, *_ = self.bound()
            norm = self.chain.rest.get(NORMALIZATION)
            if norm is None:
                self.folded = weight, bias
            else:
                mean, var, gamma, beta, use_batch, _, eps = norm.bind(
                    *self.extra[len(self.chain.first.extra) :]
                )
                if use_batch:
                    return None
                self.folded = fold([weight, bias, mean, var, gamma, beta], eps)
        return self.folded

    def arguments(self, size: torch.Size) -> tuple[Any, ...] | None:
        """What a sequence takes for inputs of that size; None where torch's convolution is faster."""
        _, _, stride, padding, dilation, groups = self.bound()
        constants = self.constants()
        if constants is None or isinstance(padding, str):
            return None
        weight, bias = constants
        if not take(weight, bias):
            return None
        geometry = (pair(stride), pair(padding), pair(dilation), groups)
        pool = POOL in self.chain.rest
        if not is_ours(size, weight.shape, geometry, pool):
            return None
        activation = NAMES.index(self.chain.activation)
        return weight.detach().numpy(), vector(bias), *geometry, activation, pool, False

    def shared(self) -> list[Tensor]:
        """Weight and bias, if they are not folded."""
        if NORMALIZATION in self.chain.rest:
            return []
        weight, bias, *_ = self.bound()
        return [weight] if bias is None else [weight, bias]


def take(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels take these constants."""
    return takes(weight) and (bias is None or takes(bias))


def vector(bias: Tensor | None) -> Any:
    """The bias as an array."""
    return None if bias is None else bias.detach().contiguous().numpy()


def is_ours(size: torch.Size, weight: torch.Size, geometry: Any, pool: bool) -> bool:
    """Whether the kernels here, with weights prepared and all that follows in their pass, are faster.

    They are where the plain ones are, by table or by trial; those that gain by it also elsewhere.
    """
    plan = trials.conv_plan(size, weight, *geometry)
    if plan is None:
        return False
    taps = weight[2:]
    kernel, _ = plans.own_kernel("forward_pool" if pool else "forward", size, weight, plan.hyper)
    gains = kernel == "depthwise" or (kernel == "direct" and geometry[-1] == 1)
    return kernel != plans.REFERENCE and (
        plan.forward != plans.TORCH or (gains and taps[0] * taps[1] <= 9)
    )


class FrozenOperation(Protocol):
    """An operation that a sequence takes as a convolution, or that runs by itself."""

    @property
    def otherwise(self) -> Callable[..., Any]:
        """The operation of any tensor, its residual and the arguments `extra`."""

    @property
    def extra(self) -> Sequence[Any]:
        """Constants."""

    def arguments(self, size: torch.Size) -> tuple[Any, ...] | None:
        """What ``_C.ConvSequence.add`` takes for an input of that size, or None."""

    def shared(self) -> list[Tensor]:
        """Those constants that are tensors of the model's, in whose memory `arguments` are."""


@dataclass
class Step:
    """An operation of a sequence: the numbers of the values that it reads, and of the one it gives."""

    operation: FrozenOperation
    gives: int
    source: int
    residual: int = NONE

    @property
    def reads(self) -> list[int]:
        """Source, and residual if there is one."""
        return [i for i in (self.source, self.residual) if i != NONE]

    def run(self, values: list[Any]) -> None:
        """Compute it by itself."""
        residual = None if self.residual == NONE else values[self.residual]
        values[self.gives] = self.operation.otherwise(
            values[self.source], residual, *self.operation.extra
        )


class Native:
    """Steps that run in one call: the values they read, and those they give."""

    def __init__(
        self,
        steps: Mapping[int, tuple[Step, tuple[Any, ...]]],
        values: Sequence[Tensor],
        inputs: int,
        wanted: Collection[int],
        weights: Any,
    ) -> None:
        """`steps` with their arguments by the value that each gives, of which the `wanted` come out.

        inputs: so many values are the sequence's, and known to lie in memory as the kernels read them.
        """
        self.sequence = _C.ConvSequence(weights)
        read = dict.fromkeys(i for step, _ in steps.values() for i in step.reads)
        self.reads = [i for i in read if i not in steps]
        self.gives = [i for i in steps if i in wanted]
        numbers = {NONE: NONE} | {
            i: self.sequence.add_input(*map_size(values[i])) for i in self.reads
        }
        for value, (step, arguments) in steps.items():
            between = numbers[step.source], numbers[step.residual]
            numbers[value] = self.sequence.add(*between, *arguments)
        self.sequence.finish([numbers[i] for i in self.gives])
        self.shapes = [values[i].shape for i in self.gives]
        self.made_outside = [i for i in self.reads if i >= inputs]

    def run(self, values: list[Any]) -> None:
        """Fill in what the steps give; all values have the shapes for which the kernels were chosen."""
        for i in self.made_outside:
            values[i] = in_order(values[i])
        made = [empty(shape) for shape in self.shapes]
        self.sequence.run_at(
            [values[i].data_ptr() for i in self.reads], [y.data_ptr() for y in made]
        )
        for number, y in zip(self.gives, made, strict=True):
            values[number] = y


def map_size(x: Tensor) -> tuple[int, ...]:
    """Batch, channels, height, width; a vector is a map of one pixel."""
    return (*x.shape, 1, 1)[:4]


def empty(shape: torch.Size) -> Tensor:
    """A map, or vectors, for a result."""
    if len(shape) != 4:
        return torch.empty(shape)
    return torch.empty(shape, memory_format=torch.channels_last)


def in_order(x: Tensor) -> Tensor:
    """The map or vectors, copied if their memory is not as the kernels read it."""
    if x.dim() == 4:
        return x if is_dense_map(x) else x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


class FrozenSequence:
    """Operations that follow one another. Values: the inputs, then each step's result.

    results: the values that others read; of a single one `run` gives the tensor itself.
    """

    def __init__(self, inputs: int, steps: Sequence[Step], results: Sequence[int]) -> None:
        self.inputs, self.steps, self.results = inputs, steps, results
        self.forget()

    def forget(self) -> None:
        """Kernels are to be chosen anew."""
        self.known: dict[Any, list[Step | Native]] = {}
        self.shared: list[Tensor] = []
        self.addresses: list[int] = []
        self.weights = _C.PreparedWeights()
        self.situation = trials.situation()

    def run(self, *inputs: Tensor) -> Any:
        """The results for these inputs."""
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        if (
            self.situation != trials.situation()
            or len(self.known) > KEPT
            # ``share_memory_`` gives a tensor other memory, and nobody is told of it.
            or list(map(_address, self.shared)) != self.addresses
        ):
            self.forget()
        fit = all(map(fits, inputs))
        shapes = tuple(x.shape for x in inputs)
        parts = self.known.get(shapes) if fit else None
        for part in self.steps if parts is None else parts:
            part.run(values)
        if fit and parts is None:
            self.known[shapes] = self.parts(values)
        results = [values[i] for i in self.results]
        return results[0] if len(results) == 1 else tuple(results)

    @torch.no_grad()
    def parts(self, values: Sequence[Tensor]) -> list[Step | Native]:
        """What runs for values of these shapes: as many steps as possible in one call."""
        if not self.shared:
            self.shared = [t for step in self.steps for t in step.operation.shared()]
            self.addresses = list(map(_address, self.shared))
        parts: list[Step | Native] = []
        joined: dict[int, tuple[Step, tuple[Any, ...]]] = {}
        for number, step in enumerate((*self.steps, None)):
            arguments = None if step is None else self.arguments(step, values)
            if step is not None and arguments is not None:
                joined[step.gives] = step, arguments
                continue
            if joined:
                later = {i for each in self.steps[number:] for i in each.reads}
                wanted = later | {*self.results}
                parts.append(Native(joined, values, self.inputs, wanted, self.weights))
                joined = {}
            if step is not None:
                parts.append(step)
        return parts

    def arguments(self, step: Step, values: Sequence[Tensor]) -> tuple[Any, ...] | None:
        """What a sequence takes of the step; None where it is to run by itself."""
        result = values[step.gives]
        same = step.residual == NONE or values[step.residual].shape == result.shape
        if not same or not all(fits(values[i]) for i in (*step.reads, step.gives)):
            return None
        return step.operation.arguments(values[step.source].shape)


def fits(x: Tensor) -> bool:
    """Whether a kernel can be called on the tensor as it is, outside autograd."""
    differentiated = x.requires_grad and torch.is_grad_enabled()
    return (
        x.is_cpu
        and x.numel() > 0
        and (is_dense_map(x) if x.dim() == 4 else x.dim() == 2 and x.is_contiguous())
        and takes(x)
        and not differentiated
    )


def is_dense_map(x: Tensor) -> bool:
    """Whether the map's memory is (N, H, W, C) without gaps; one pixel's is, however torch counts it."""
    ordered = is_channels_last(x) or x.shape[2:] == (1, 1)
    return ordered and x.is_contiguous(memory_format=torch.channels_last)
