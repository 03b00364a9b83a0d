"""A recipe as a sweep takes it: what makes its models, its batches, and what is held out of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from pyconvopt.data.loader import ArrayLoader
from pyconvopt.data.split import divided, split
from pyconvopt.training.candidates import grid
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.run import load_images

# The sections of a recipe, and the single settings, that its candidates may differ in.
SWEPT = (
    *("compile", "layers", "model", "optimizer", "schedule", "averaging", "regularizers"),
    *("augment", "fit.batch_size"),
)
HELD_OUT = 0.1  # of a recipe's training images, of each class: the test images are not for choosing


class BatchesOf:
    """The batches of a recipe with other settings."""

    def __init__(self, recipe: Recipe, x: Any, y: Any, **changes: Any) -> None:
        self.recipe, self.x, self.y, self.changes = recipe, x, y, changes

    def of(self, settings: Mapping[str, Any]) -> ArrayLoader:
        """The batches of those settings."""
        return changed(self.recipe, settings).batches(self.x, self.y, **self.changes)


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings.

    Errors: ValueError for what it does not have, or what a sweep cannot change.
    """
    copied = Recipe(recipe.name, deepcopy(recipe.table))
    for key, value in settings.items():
        if key not in SWEPT and key.partition(".")[0] not in SWEPT:
            raise ValueError(f"a sweep changes {', '.join(SWEPT)} of a recipe, not {key!r}")
        copied.set(key, value)
    return copied


def ends_of(values: Any) -> Any:
    """A list as it is; of a range its two ends."""
    if isinstance(values, Mapping):
        return [values[end] for end in ("low", "high") if end in values]
    return values


def of_recipe(
    recipe: Recipe,
    space: Mapping[str, Any],
    data: Any,
    validation: Any,
    fit: dict[str, Any],
    seed: int,
) -> tuple[Callable[..., Any], BatchesOf, Any]:
    """What makes a recipe's models, its batches, and what is held out of its data."""
    for settings in grid({name: ends_of(values) for name, values in space.items()}):
        changed(recipe, settings)  # refused now, not after hours
    if data is None:
        (x, y), _ = load_images(recipe)
        # Pictures of a folder lie class by class: the end of those would be the last class alone.
        has_classes = y.ndim == 1 and y.dtype.kind in "iu"
        data, validation = divided(x, y, HELD_OUT) if has_classes else split((x, y), HELD_OUT)
    x, y = data
    changes = {"seed": seed}
    if "batch_size" in fit:
        size = fit.pop("batch_size")
        changes |= {} if "fit.batch_size" in space else {"batch_size": size}

    def make(**settings: Any) -> Any:
        return changed(recipe, settings).model_for(x, y)

    return make, BatchesOf(recipe, x, y, **changes), validation
