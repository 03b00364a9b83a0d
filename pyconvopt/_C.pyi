"""The compiled part: instruction sets, the kernel table, memory, kernels on numpy arrays."""

from typing import Any

import numpy as np

Pair = tuple[int, int]
Norm = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]

def isa() -> str: ...
def set_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
def winograd() -> bool: ...
def set_winograd(enabled: bool) -> None: ...
def kernel_names() -> list[tuple[str, str, str]]: ...
def choose_conv(
    pass_: str,
    batch: int,
    in_channels: int,
    in_height: int,
    in_width: int,
    out_channels: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    kernel: str = "",
) -> tuple[str, str]: ...
def arena_bytes() -> int: ...
def arena_set_cap(bytes: int) -> None: ...
def arena_release() -> None: ...
def arena_cap() -> int: ...
def keep_freed_memory(keep: bool) -> None: ...
def freed_memory_is_kept() -> bool: ...
def conv_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    relu: bool,
    pool: bool,
    kernel: str = "",
    norm: Norm | None = None,
) -> Any: ...
def conv_moments(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    kernel: str = "",
) -> tuple[np.ndarray, np.ndarray]: ...
def conv_data_gradient(
    gradient: np.ndarray,
    weight: np.ndarray,
    input_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    kernel: str = "",
    argmax: np.ndarray | None = None,
) -> np.ndarray: ...
def conv_weight_gradient(
    x: np.ndarray,
    gradient: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    kernel: str = "",
    argmax: np.ndarray | None = None,
    norm: Norm | None = None,
) -> Any: ...

class PreparedWeights:
    def floats(self) -> int: ...

class ConvSequence:
    def __init__(self, weights: PreparedWeights) -> None: ...
    def add_input(self, batch: int, channels: int, height: int, width: int) -> int: ...
    def add(
        self,
        input: int,
        residual: int,
        weight: np.ndarray,
        bias: np.ndarray | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        activation: int,
        pool: bool,
        flat: bool = False,
    ) -> int: ...
    def finish(self, results: list[int]) -> None: ...
    def size(self, value: int) -> tuple[int, int, int, int]: ...
    def run(self, inputs: list[np.ndarray], results: list[np.ndarray]) -> None: ...
    def run_at(self, inputs: list[int], results: list[int]) -> None: ...

def philox4x32(
    c0: int, c1: int, c2: int, c3: int, k0: int, k1: int
) -> tuple[int, int, int, int]: ...
def dropout_multiplier(p: float, seed: int, offset: int, element: int) -> float: ...
def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[float, np.ndarray]: ...

CUDA_MATH: dict[str, int]

def cuda_math() -> int: ...
def set_cuda_math(math: int) -> None: ...
def cuda_problem(device: int) -> str: ...
