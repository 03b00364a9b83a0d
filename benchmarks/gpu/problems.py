"""What each CUDA kernel has to move and to compute, at least: every tensor read or written once.

The one table that the benchmark on a GPU and the model on paper (docs/cuda.md) both read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Shape:
    """A map; dense convolutions are 3×3 with as many channels out, depthwise ones 3×3 too."""

    batch: int = 32
    channels: int = 64
    height: int = 56
    width: int = 56

    @property
    def elements(self) -> int:
        return self.batch * self.channels * self.height * self.width


@dataclass(frozen=True)
class Kernel:
    """One entry of the plug-in.

    Attributes:
        maps: bytes an element of the map, over the size of a float32 map.
        operations: floating-point operations an element.
        arithmetic: what they run on, a column of `Gpu`.
        beside: bytes beside the maps, of the convolution's weights and of moments.
    """

    name: str
    maps: float
    operations: Callable[[Shape], float]
    arithmetic: str = "float32"
    beside: Callable[[Shape], int] = lambda shape: 0

    def bytes(self, shape: Shape) -> float:
        return self.maps * FLOAT * shape.elements + self.beside(shape)

    def flops(self, shape: Shape) -> float:
        return self.operations(shape) * shape.elements

    def seconds(self, shape: Shape, gpu: Gpu) -> float:
        """The longer of moving the bytes and computing, at the GPU's peaks."""
        return max(
            self.bytes(shape) / gpu.bandwidth, self.flops(shape) / getattr(gpu, self.arithmetic)
        )


@dataclass(frozen=True)
class Gpu:
    """Peaks: bytes and operations a second."""

    name: str
    bandwidth: float
    float32: float
    tf32: float = 0.0
    bfloat16: float = 0.0


# NVIDIA's data sheets, without sparsity.
A100 = Gpu("A100 SXM 80 GB", 2039e9, 19.5e12, 156e12, 312e12)
H100 = Gpu("H100 SXM", 3350e9, 67e12, 494.5e12, 989e12)


def _each(operations: float) -> Callable[[Shape], float]:
    return lambda shape: operations


def _dense(shape: Shape) -> float:
    return 2 * 9 * shape.channels


def _dense_weights(shape: Shape) -> int:
    return 9 * shape.channels**2 * FLOAT


def _depthwise_weights(shape: Shape) -> int:
    return 9 * shape.channels * FLOAT


def _moments(shape: Shape) -> int:
    """Mean and squares of every channel for each 64 pixels."""
    return 2 * FLOAT * shape.channels * -(-shape.batch * shape.height * shape.width // 64)


def _dense_weights_and_moments(shape: Shape) -> int:
    return _dense_weights(shape) + _moments(shape)


# Pooled maps have a quarter of the elements, and one byte of argmax for each.
_POOLED = 1 / 4 + 1 / 16

KERNELS = [
    Kernel("batch norm + ReLU, forward", 3, _each(9)),
    Kernel("batch norm + ReLU, backward", 5, _each(10)),
    Kernel("batch norm + residual + ReLU, forward", 4, _each(10)),
    Kernel("batch norm + ReLU, evaluation", 2, _each(3)),
    Kernel("batch norm + ReLU, forward, from moments", 2, _each(3), beside=_moments),
    Kernel("dropout", 2, _each(1)),
    Kernel("max-pool, forward", 1 + _POOLED, _each(0.75)),
    Kernel("max-pool, backward", 1 + _POOLED, _each(0)),
    Kernel("SGD with momentum", 5, _each(6)),
    Kernel("Adam", 7, _each(14)),
    Kernel("depthwise, forward", 2, _each(18), beside=_depthwise_weights),
    Kernel("depthwise, data gradient", 2, _each(18), beside=_depthwise_weights),
    Kernel("depthwise, weight gradient", 2, _each(18), beside=_depthwise_weights),
    *(
        Kernel(f"dense, {pass_}, {math}", 2, _dense, math, _dense_weights)
        for math in ("float32", "tf32", "bfloat16")
        for pass_ in ("forward", "data gradient", "weight gradient")
    ),
    *(
        Kernel(f"dense, forward with moments, {math}", 2, _dense, math, _dense_weights_and_moments)
        for math in ("float32", "tf32", "bfloat16")
    ),
]


def kernel(name: str) -> Kernel:
    return next(k for k in KERNELS if k.name == name)
