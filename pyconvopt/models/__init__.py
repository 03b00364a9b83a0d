"""Models assembled from layers, and read back from files."""

from pyconvopt.models.saving import load
from pyconvopt.models.sequential import Sequential

__all__ = ["Sequential", "load"]
