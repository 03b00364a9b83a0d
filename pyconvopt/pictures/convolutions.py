"""What convolutions have learnt: their filters, and what those find in an image.

A convolution is a module with a weight of four axes of its own: torch's Conv2d, the layers Conv2D,
Conv2DTranspose and so on. Filters are shown about 0, blue below and red above; those over three
channels in colour, grey being 0.

Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyconvopt import layers, registry
from pyconvopt.data import checks
from pyconvopt.models import Sequential
from pyconvopt.pictures.drawing import (
    as_picture,
    finished,
    in_rows,
    mosaic,
    new_figure,
    show_picture,
    show_tiles,
    some_of,
    spread,
)
from pyconvopt.training.arguments import whole
from pyconvopt.training.inference import evaluating, place

ROWS, COLUMNS = 10, 8  # of layers, and of the maps shown of each
SQUARE = 16  # filters and channels of a deeper layer


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions of a model by their names, in its order."""
    return {name: module for name, module in model.named_modules() if is_convolution(module)}


def is_convolution(module: nn.Module) -> bool:
    """Whether the module owns a weight of four axes."""
    weight = module._parameters.get("weight")
    if weight is None and hasattr(module, "parametrizations"):  # spectral norm and its kin
        weight = getattr(module, "weight", None)
    if weight is None or isinstance(weight, nn.parameter.UninitializedParameter):
        return False
    return weight.dim() == 4


def named(model: nn.Module, layer: Any) -> tuple[str, nn.Module]:
    """A module of the model, given by its name or itself."""
    modules = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, str):
        if layer not in modules:
            raise registry.unknown("layer", layer, modules)
        return layer, modules[layer]
    for name, module in modules.items():
        if module is layer:
            return name, module
    raise ValueError(f"the layer must be one of this model, by its name or itself, got {layer!r}")


def first_convolution(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module; ValueError if there is none."""
    for found in convolutions(model).items():
        return found
    hint = (
        ""
        if getattr(model, "built", True)
        else ": it is not built yet, call build() or fit() first"
    )
    raise ValueError(f"the model has no convolution{hint}")


def weight_of(module: Any) -> np.ndarray:
    """A convolution's weight as (filters, channels, height, width)."""
    transposed = isinstance(module, (nn.ConvTranspose2d, layers.Conv2DTranspose))
    weight = module.weight.detach().cpu().float()
    return (weight.transpose(0, 1) if transposed else weight).numpy()


def filters(
    model: nn.Module, layer: Any = None, path: str | Path | None = None, *, most: int = 64
) -> Any:
    """The filters of a convolution.

    Args: model, layer (None: the first convolution; or a name of `named_modules()`, or the module
    itself), path (None: not written), most (64: of filters over one or three channels).

    Filters over one channel are tiles in rows of eight, over three channels they are in colour. Of
    deeper layers a row is a filter and a column an input channel, of each the first sixteen.

    Errors: ValueError for a model without convolutions, an unknown layer, or one that is none;
    ImportError naming the extra if matplotlib is missing.

    >>> model = Sequential([layers.Conv2D(6, 3, input_shape=(8, 8, 1))])
    >>> figure = filters(model)
    >>> figure.axes[0].get_title()
    'conv2d: 6 filters of 3×3'
    """
    whole("most", most)
    name, module = first_convolution(model) if layer is None else named(model, layer)
    if not is_convolution(module):
        raise ValueError(
            f"{name} ({type(module).__name__}) is no convolution; this model's are "
            f"{', '.join(convolutions(model)) or 'none'}"
        )
    weight = weight_of(module)
    count, channels, height, width = weight.shape
    size = f"of {height}×{width}"
    limit = float(np.abs(weight).max()) or 1.0
    around_zero = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    gap = 0 if height * width == 1 else 1
    if channels in (1, 3):
        shown = weight[:most]
        tiles = shown[:, 0] if channels == 1 else 0.5 + shown.transpose(0, 2, 3, 1) / (2 * limit)
        image = mosaic(in_rows(tiles, min(COLUMNS, len(tiles))), gap)
        title = f"{name}: {some_of(len(shown), count, 'filters')} {size}"
    else:
        shown = weight[:SQUARE, :SQUARE]
        image = mosaic(shown, gap)
        title = (
            f"{name}: {some_of(len(shown), count, 'filters')} {size}\n"
            f"over {some_of(shown.shape[1], channels, 'channels')}"
        )
    down, across = image.shape[:2]
    wide = 6.0
    figure = new_figure(
        wide, min(max(wide * 0.85 * down / across, 1.0), 12) + 0.7, "drawing filters"
    )
    axes = figure.subplots()
    drawn = show_tiles(axes, image, **({} if channels == 3 else around_zero))
    axes.set_title(title)
    if channels == 3:
        axes.set_xlabel(
            f"colours: weights from -{limit:.2g} (dark) over 0 (grey) to {limit:.2g} (light)"
        )
    else:
        figure.colorbar(drawn, ax=axes, shrink=0.8, label="weight")
        if channels != 1:
            number(axes, shown.shape[:2], (height + gap, width + gap), (height, width))
            axes.set(xlabel="input channel", ylabel="filter")
    return finished(figure, path)


def number(
    axes: Any, counts: tuple[int, int], steps: tuple[int, int], sizes: tuple[int, int]
) -> None:
    """Write the numbers of rows and columns of tiles beside them."""
    for axis, count, step, size in zip((axes.yaxis, axes.xaxis), counts, steps, sizes, strict=True):
        shown = range(0, count, -(-count // COLUMNS))
        axis.set_ticks([each * step + (size - 1) / 2 for each in shown], [str(n) for n in shown])
        axis.set_tick_params(length=0)


def one_image(model: nn.Module, x: Any) -> Tensor:
    """An image with its batch axis, as the model takes it."""
    values = checks.as_tensor(x, "images")
    if values.dim() == 3:
        values = values[None]
    if values.dim() != 4 or len(values) != 1:
        wanted = "(H, W, C)" if isinstance(model, Sequential) else "(C, H, W)"
        raise ValueError(
            f"x must be one image, {wanted} with or without a batch axis of one; got shape "
            f"{tuple(values.shape)}"
        )
    return values


def maps_of(model: nn.Module, image: Tensor, wanted: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What the layers give for the image, (channels, H, W) each, in the order they run.

    Of a layer that runs several times the first map. A hooked layer is joined with no other.
    """
    names = {module: name for name, module in wanted.items()}
    found: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor) and names[module] not in found:
            found[names[module]] = output.detach()[0].cpu().float()

    handles = [each.register_forward_hook(note, with_kwargs=True) for each in names]
    try:
        device, dtype = place(model)
        with evaluating(model):
            model(image.to(device, dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found


def feature_maps(
    model: nn.Module,
    x: Any,
    layer: Any = None,
    path: str | Path | None = None,
    *,
    most: int = 64,
) -> Any:
    """What the layers make of an image: above the image, below it their maps.

    Args: model, x (one image, as the model takes it, with or without the batch axis), layer (None:
    the first eight maps of every convolution, of at most ten; or a name of `named_modules()`, or
    the module itself: its maps), path (None: not written), most (64: maps of that one layer).

    The maps are the layer's outputs, behind its activation where it has one; each layer has its own
    scale.

    Errors: ValueError for several images, a model without convolutions, an unknown layer or one
    that gives no maps; ImportError naming the extra if matplotlib is missing.

    >>> model = Sequential([layers.Conv2D(6, 3, input_shape=(8, 8, 1)), layers.MaxPooling2D()])
    >>> figure = feature_maps(model, np.ones((8, 8, 1), np.float32), 'max_pooling2d')
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['input: 8×8', 'max_pooling2d: 6 maps of 3×3']
    """
    whole("most", most)
    image = one_image(model, x)
    if not getattr(model, "built", True):
        model.build(tuple(image.shape))  # type: ignore[operator]
    if layer is None:
        first_convolution(model)
        wanted, most = convolutions(model), COLUMNS
    else:
        wanted = dict([named(model, layer)])
    found = maps_of(model, image, wanted)
    for name, maps in found.items():
        if maps.dim() != 3:
            raise ValueError(
                f"{name} gives no maps but an output of shape {('N', *maps.shape)}".replace("'", "")
            )
    if not found:
        raise ValueError(f"{', '.join(wanted)} did not run, or gave no tensor")
    shown = {name: found[name] for name in spread(list(found), ROWS)}
    picture = as_picture(image[0], isinstance(model, Sequential))
    return finished(drawn_maps(picture, shown, most), path)


def drawn_maps(picture: np.ndarray, shown: dict[str, Tensor], most: int) -> Any:
    """The figure: a panel for the image, and one for the maps of each layer."""
    mosaics = {
        name: mosaic(in_rows(maps[:most].numpy(), COLUMNS), gap=max(1, maps.shape[2] // 16))
        for name, maps in shown.items()
    }
    wide = 8.0
    heights = [1.2, *(0.85 * wide * each.shape[0] / each.shape[1] for each in mosaics.values())]
    figure = new_figure(wide, sum(heights) + 0.4 * len(heights), "drawing feature maps")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    show_picture(panels[0], picture)
    panels[0].set_title(f"input: {picture.shape[0]}×{picture.shape[1]}", fontsize=10)
    for axes, (name, maps) in zip(panels[1:], shown.items(), strict=True):
        drawn = show_tiles(axes, mosaics[name], cmap="viridis")
        count, height, width = maps.shape
        number_shown = some_of(min(count, most), count, "maps")
        axes.set_title(f"{name}: {number_shown} of {height}×{width}", fontsize=10)
        figure.colorbar(drawn, ax=axes, pad=0.01, aspect=12)
    return figure
