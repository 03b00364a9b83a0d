"""What a recipe's sections hold, and what is made of them.

`SECTIONS` is the one table of keys and their types. The sections that name a method (a schedule,
an average ...) hold its settings beside the name; those are checked by making it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyconvopt import averaging, losses, registry, regularizers, schedules
from pyconvopt.data import augment
from pyconvopt.training.callbacks import Callback, TerminateOnNaN
from pyconvopt.training.monitors import EarlyStopping, ReduceLROnPlateau

Kinds = type | tuple[type, ...]

NUMBER = (int, float)

# What a recipe must say besides its model, and the type of each value.
SECTIONS: dict[str, dict[str, Kinds]] = {
    "data": {"name": str, "scale": NUMBER},
    "fit": {"epochs": int, "batch_size": int, "seed": int, "validation": str},
    "compile": {"optimizer": str, "loss": (str, dict), "metrics": list},
}
# What it may say there.
OPTIONAL: dict[str, dict[str, Kinds]] = {
    "data": {
        "standardize": bool,
        "image_size": list,
        "test_share": float,
        "classes": list,
        "damaged": str,
        "in_memory": bool,
    },
    "fit": {"validation_freq": int},
    "compile": {
        "learning_rate": NUMBER,
        "accumulate": int,
        "clip_norm": NUMBER,
        "clip_value": NUMBER,
        "adaptive_clip": (*NUMBER, dict),
    },
}
# Sections it may have: settings of what they name, checked where that is made.
SETTINGS = ("model", "optimizer", "schedule", "averaging", "regularizers")
# Lists of such: [[layers]], [[augment]], [[callbacks]].
LISTS = ("layers", "augment", "callbacks")

UNITS: dict[str, Callable[[schedules.Schedule], schedules.Schedule]] = {
    "steps": lambda schedule: schedule,
    "epochs": lambda schedule: schedule.per_epoch(),
    "run": lambda schedule: schedule.over_run(),
}

# Looked up when they are made: averages are callbacks, and may be imported before this package.
AVERAGES: dict[str, Callable[..., averaging.Averaging]] = {
    "ema": lambda **settings: averaging.EMA(**settings),
    "swa": lambda **settings: averaging.SWA(**settings),
}

# Those that a recipe can say all of; what writes files belongs to the run and not to the recipe.
CALLBACKS: dict[str, type[Callback]] = {
    "EarlyStopping": EarlyStopping,
    "ReduceLROnPlateau": ReduceLROnPlateau,
    "TerminateOnNaN": TerminateOnNaN,
}

TRANSFORMS: dict[str, type[augment.Transform]] = {
    name: each
    for name, each in vars(augment).items()
    if isinstance(each, type)
    and issubclass(each, augment.Transform)
    and each not in (augment.Transform, augment.Mixing)
}


def named(section: str, settings: Mapping[str, Any], key: str = "name") -> tuple[str, dict]:
    """The name in a section, and the settings beside it."""
    if not isinstance(settings, Mapping) or not isinstance(settings.get(key), str):
        raise ValueError(f"[{section}] lacks its {key}")
    return settings[key], {name: value for name, value in settings.items() if name != key}


def schedule(table: Mapping[str, Any]) -> schedules.Schedule | None:
    """The schedule of [schedule]: name, unit, warmup, and the schedule's own settings.

    `unit` says what lengths count: 'steps', 'epochs', or shares of the 'run' (the default);
    `warmup` is a length.

    >>> schedule({'schedule': {'name': 'cosine', 'lr': 0.1, 'n': 1, 'warmup': 0.05}})
    OverRun(schedule=Warmup(schedule=Cosine(lr=0.1, n=1, end=0.0), n=0.05, start=0.0, shape='linear'))
    """
    if "schedule" not in table:
        return None
    if "learning_rate" in table.get("compile", {}):
        raise ValueError("the recipe has compile.learning_rate and a [schedule]: give schedule.lr")
    name, settings = named("schedule", table["schedule"])
    unit = registry.find("schedule.unit", UNITS, settings.pop("unit", "run"))
    warmup = settings.pop("warmup", None)
    made = schedules.get(name, **settings)
    return unit(made if warmup is None else made.warmup(warmup))


def optimizer(table: Mapping[str, Any]) -> str | dict[str, Any]:
    """The optimiser: compile.optimizer, with the settings of [optimizer] if there are any."""
    name, settings = table["compile"]["optimizer"], table.get("optimizer")
    return {"name": name, "config": dict(settings)} if settings else name


def average(table: Mapping[str, Any]) -> list[averaging.Averaging]:
    """The average of [averaging], a callback: name ('ema' or 'swa') and its settings."""
    if "averaging" not in table:
        return []
    name, settings = named("averaging", table["averaging"])
    return [registry.make("average", AVERAGES, {"name": name, "config": settings})]


def penalties(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """[regularizers]: patterns of parameters' names to penalties."""
    found = table.get("regularizers")
    return {pattern: regularizers.get(spec) for pattern, spec in found.items()} if found else None


def transforms(table: Mapping[str, Any]) -> list[augment.Transform] | None:
    """The transforms of [[augment]], in order: type, and the transform's own settings."""
    made = []
    for entry in table.get("augment", ()):
        name, settings = named("augment", entry, "type")
        made.append(registry.make("augmentation", TRANSFORMS, {"name": name, "config": settings}))
    return made or None


def callbacks(table: Mapping[str, Any]) -> list[Callback]:
    """The callbacks of [[callbacks]]: type, and the callback's own settings, as Keras has them.

    >>> entry = {'type': 'ReduceLROnPlateau', 'factor': 0.5}
    >>> callbacks({'fit': {'validation': 'test'}, 'callbacks': [entry]})[0].factor
    0.5
    """
    made = []
    for entry in table.get("callbacks", ()):
        name, settings = named("callbacks", entry, "type")
        callback = registry.make("callback", CALLBACKS, {"name": name, "config": settings})
        watched = getattr(callback, "monitor", "")
        if watched.startswith("val_") and table["fit"]["validation"] == "none":
            raise ValueError(
                f'{name} watches {watched}, which fit.validation = "none" leaves out: give '
                'another monitor, such as "loss"'
            )
        if isinstance(callback, ReduceLROnPlateau) and "schedule" in table:
            raise ValueError(
                f"the recipe has a [schedule], which sets the rate of every step, and {name}: "
                "leave one of them out"
            )
        made.append(callback)
    return made


def check_values(table: Mapping[str, Any]) -> None:
    """Refuse unknown keys, missing ones, and values of a wrong type."""
    for section, keys in SECTIONS.items():
        known = keys | OPTIONAL.get(section, {})
        for key, value in table.get(section, {}).items():
            kind = registry.find(f"key in [{section}]", known, key)
            kinds = kind if isinstance(kind, tuple) else (kind,)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wanted = " or ".join(each.__name__ for each in kinds)
                raise ValueError(f"{section}.{key} must be {wanted}, got {value!r}")
        missing = [key for key in keys if key not in table.get(section, {})]
        if missing:
            raise ValueError(f"the recipe lacks {section}.{missing[0]}")
    for key in ("epochs", "batch_size", "validation_freq"):
        if table["fit"].get(key, 1) < 1:
            raise ValueError(f"fit.{key} must be 1 or more, got {table['fit'][key]}")
    registry.find("fit.validation", {"test": None, "none": None}, table["fit"]["validation"])


def check_model(table: Mapping[str, Any]) -> None:
    """Refuse a recipe without a model, or with two."""
    layers = table.get("layers")
    if "model" in table:
        if layers:
            raise ValueError("the recipe has a [model] and [[layers]]: leave one of them out")
        named("model", table["model"], "architecture")
        return
    if not isinstance(layers, list) or not layers:
        raise ValueError("the recipe has no [[layers]] and no [model]")
    for index, layer in enumerate(layers):
        if "type" not in layer:
            raise ValueError(f"layers.{index} lacks its type")


def check_methods(table: Mapping[str, Any]) -> None:
    """Make every method once, so that a wrong name or setting is refused before a run."""
    losses.get(table["compile"]["loss"])
    for make in (schedule, optimizer, average, penalties, transforms, callbacks):
        make(table)
