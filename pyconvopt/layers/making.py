"""A layer from its type and arguments, as recipes and files have them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconvopt import registry
from pyconvopt.layers.base import Layer, truth


def make_layer(entry: Any) -> Layer:
    """A layer from {"type": its name, arguments ...}, or the layer itself.

    Errors: ValueError for an unknown name or argument, or a value of a wrong kind, TypeError for
    anything else.

    >>> make_layer({'type': 'Dropout', 'rate': 0.1, 'name': 'noise'}).name
    'noise'
    """
    from pyconvopt.layers import TABLE

    if isinstance(entry, Layer):
        return entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise TypeError(f"a layer or its type and arguments is wanted, got {entry!r}")
    arguments = {key: value for key, value in entry.items() if key not in ("type", "trainable")}
    kind = registry.find("layer", TABLE, entry["type"])
    registry.check_arguments(entry["type"], kind, arguments)
    try:
        layer = kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{entry['type']}: {error}") from None
    # To set it is to set it for all layers within, of which each has its own.
    wanted = entry.get("trainable", layer.trainable)
    if layer.trainable != truth(f"{entry['type']}: trainable", wanted):
        layer.trainable = not layer.trainable
    return layer


def describe_layer(layer: Layer) -> dict[str, Any]:
    """A layer as JSON can hold it; `make_layer` reads it back."""
    return {"type": type(layer).__name__, **layer.get_config(), "trainable": layer.trainable}
