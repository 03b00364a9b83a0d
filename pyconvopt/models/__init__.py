"""Models assembled from layers, known architectures, and models read back from files."""

from pyconvopt.models.architectures import *  # noqa: F403
from pyconvopt.models.architectures import ARCHITECTURES, build
from pyconvopt.models.saving import load
from pyconvopt.models.sequential import Sequential

__all__ = [*ARCHITECTURES, "ARCHITECTURES", "Sequential", "build", "load"]
