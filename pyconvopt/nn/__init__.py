"""Drop-in modules: torch's, by the same names, on this library's kernels.

Each is a subclass of the torch module it replaces, with the same constructor, ``state_dict`` and
results.
"""

from .activation import ReLU
from .batchnorm import BatchNorm2d
from .conv import Conv2d
from .dropout import Dropout, Dropout2d
from .linear import Linear
from .pooling import MaxPool2d

__all__ = ["BatchNorm2d", "Conv2d", "Dropout", "Dropout2d", "Linear", "MaxPool2d", "ReLU"]
