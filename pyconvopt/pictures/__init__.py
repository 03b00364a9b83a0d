"""Pictures of a run and of what a network has learnt, each a function that returns a Figure.

Before training: `schedule`. After it: `curves`, `confusion_matrix`, `mistakes`, `filters`,
`feature_maps`, `histograms`; `write_all` writes every picture that a model has into a folder.

A figure is matplotlib's: show it, change it, or give `path` to have it written (PNG, SVG or PDF, as
the path's ending says; whole or not at all). matplotlib is imported when a picture is drawn, its
global state is left alone. Models are any nn.Module with images as it takes them, channels first,
or a `models.Sequential`, whose images are channels last; modes, gradients, buffers and random
states are afterwards as they were.
"""

from pyconvopt.pictures.answers import confusion_matrix, mistakes
from pyconvopt.pictures.convolutions import feature_maps, filters
from pyconvopt.pictures.curves import curves, schedule
from pyconvopt.pictures.everything import write_all
from pyconvopt.pictures.histograms import histograms

__all__ = [
    "confusion_matrix",
    "curves",
    "feature_maps",
    "filters",
    "histograms",
    "mistakes",
    "schedule",
    "write_all",
]
