"""Modules of torch on this library's kernels, and modules that torch has not.

The first are subclasses of the torch modules whose names they bear, with the same constructor,
``state_dict`` and results.
"""

from .activation import (
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from .batch_statistics import BatchRenorm2d, FilterResponseNorm2d, GhostBatchNorm2d
from .batchnorm import BatchNorm2d
from .conv import Conv1d, Conv2d, ConvTranspose2d, WeightStandardizedConv2d
from .conv_norm_act import ConvNormAct
from .dropout import Dropout, Dropout2d
from .lazy import LazyBatchNorm2d, LazyConv2d, LazyLinear
from .linear import Linear
from .loss import CrossEntropyLoss
from .monte_carlo import monte_carlo_dropout, monte_carlo_predict
from .pooling import AdaptiveAvgPool2d, AvgPool2d, BlurPool2d, MaxPool2d
from .squeeze_excite import SqueezeExcite
from .stochastic import DropBlock2d, DropPath, ScheduledDropout
from .sync_batchnorm import SyncBatchNorm

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "BatchRenorm2d",
    "BlurPool2d",
    "Conv1d",
    "Conv2d",
    "ConvNormAct",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DropBlock2d",
    "DropPath",
    "Dropout",
    "Dropout2d",
    "FilterResponseNorm2d",
    "GhostBatchNorm2d",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LazyBatchNorm2d",
    "LazyConv2d",
    "LazyLinear",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Mish",
    "ReLU",
    "ScheduledDropout",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SqueezeExcite",
    "SyncBatchNorm",
    "Tanh",
    "WeightStandardizedConv2d",
    "monte_carlo_dropout",
    "monte_carlo_predict",
]
