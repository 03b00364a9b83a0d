"""Functions in the manner of ``torch.nn.functional``, on this library's kernels.

Each takes any tensor that torch's function of the same name takes and returns what it returns, in
the memory format it would use. Float32 tensors on the CPU run on the kernels here where there is
one for the shape; everything else (other types and devices, autocast, ``torch.func`` transforms,
forward-mode differentiation) is torch's.
"""

from .activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    mish,
    selu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from .conv import conv2d, conv2d_max_pool, conv2d_moments
from .conv1d import conv1d
from .conv_norm_act import conv_norm_act
from .conv_transpose import conv_transpose2d
from .elementwise import dropout, dropout2d, linear, relu
from .loss import cross_entropy
from .norm import batch_norm
from .pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv2d_max_pool",
    "conv2d_moments",
    "conv_norm_act",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "linear",
    "max_pool2d",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]
