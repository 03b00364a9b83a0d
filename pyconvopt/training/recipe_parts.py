"""What a recipe's sections hold, and what is made of them.

`SECTIONS` is the one table of keys and their types, `LIMITS` and `CHOICES` say which values they
take. The sections that name a method (a layer, a schedule, an average ...) hold its settings beside
the name; those are checked by making it, see `METHODS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from pyconvopt import averaging, layers, optimizers, registry, regularizers, schedules
from pyconvopt.data import augment
from pyconvopt.data.image_folder import DAMAGED
from pyconvopt.models import ARCHITECTURES
from pyconvopt.training.callbacks import Callback, TerminateOnNaN
from pyconvopt.training.monitors import EarlyStopping, ReduceLROnPlateau
from pyconvopt.training.trainer import Trainer

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
# What a value must be, and how that is said.
Limit = tuple[Callable[[Any], bool], str]
ONE_OR_MORE: Limit = (lambda value: value >= 1, "1 or more")
LIMITS: dict[str, Limit] = {
    "data.scale": (lambda value: 0 < value < math.inf, "a number above 0"),
    "data.image_size": (
        lambda value: is_list_of(int, value) and len(value) == 2 and min(value) >= 1,
        "two whole numbers of 1 or more",
    ),
    "data.test_share": (lambda value: 0 < value < 1, "between 0 and 1"),
    "fit.epochs": ONE_OR_MORE,
    "fit.batch_size": ONE_OR_MORE,
    "fit.seed": (lambda value: value >= 0, "0 or more"),
    "fit.validation_freq": ONE_OR_MORE,
}
CHOICES: dict[str, Sequence[str]] = {
    "data.damaged": tuple(DAMAGED),
    "fit.validation": ("test", "none"),
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


def is_list_of(kind: type, value: Any) -> bool:
    """Whether a value is a list of that kind alone.

    >>> is_list_of(int, [28, 28]), is_list_of(int, ['a', 2]), is_list_of(str, 3)
    (True, False, False)
    """
    return isinstance(value, (list, tuple)) and all(type(each) is kind for each in value)


def named(section: str, settings: Mapping[str, Any], key: str = "name") -> tuple[str, dict]:
    """The name in a section, and the settings beside it."""
    if not isinstance(settings, Mapping) or not isinstance(settings.get(key), str):
        raise ValueError(f"[{section}] lacks its {key}")
    return settings[key], {name: value for name, value in settings.items() if name != key}


def add_layers(
    table: Mapping[str, Any], add: Callable[[layers.Layer], Any] = lambda layer: None
) -> None:
    """Make each of [[layers]], in order, and hand it to `add`.

    Errors: ValueError that says which one is wrong.
    """
    for index, entry in enumerate(table.get("layers", ())):
        try:
            add(layers.make_layer(entry))
        except ValueError as error:
            raise ValueError(f"layers.{index} of the recipe: {error}") from None


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
    if warmup is None:
        return unit(made)
    registry.refuse_wrong_kinds("schedule.warmup", made.warmup, {"n": warmup})
    return unit(made.warmup(warmup))


def optimizer(table: Mapping[str, Any]) -> str | dict[str, Any]:
    """The optimiser: compile.optimizer, with the settings of [optimizer] if there are any."""
    name, settings = table["compile"]["optimizer"], table.get("optimizer")
    make, _ = registry.find("optimizer", optimizers.OPTIMIZERS, name)
    if not settings:
        return name
    registry.refuse_wrong_kinds(f"optimizer {name}", make, settings)
    spared = settings.get("no_decay", ())
    if not is_list_of(str, [spared] if isinstance(spared, str) else spared):
        raise ValueError(f"optimizer.no_decay must be names of weights, got {spared!r}")
    return {"name": name, "config": dict(settings)}


def averages() -> dict[str, type[averaging.Averaging]]:
    """Averages by name; looked up late, as they are callbacks and may be imported before this package."""
    return {"ema": averaging.EMA, "swa": averaging.SWA}


def average(table: Mapping[str, Any]) -> list[averaging.Averaging]:
    """The average of [averaging], a callback: name ('ema' or 'swa') and its settings."""
    if "averaging" not in table:
        return []
    name, settings = named("averaging", table["averaging"])
    made = registry.make("average", averages(), {"name": name, "config": settings})
    epochs = table["fit"]["epochs"]
    if isinstance(made, averaging.SWA) and made.first_epoch(epochs) >= epochs:
        raise ValueError(
            f"averaging.start must be an epoch of the run, counted from 0, got {made.start} with "
            f"fit.epochs = {epochs}"
        )
    return [made]


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
    for key in (*LIMITS, *CHOICES):
        section, _, name = key.partition(".")
        if name in table[section]:
            check_value(key, table[section][name])


def check_value(key: str, value: Any) -> None:
    """Refuse a value that a key does not take."""
    holds, wanted = LIMITS.get(key, (lambda value: True, ""))
    if not holds(value):
        raise ValueError(f"{key} must be {wanted}, got {value}")
    # As it is compared later: to the letter.
    if key in CHOICES and value not in CHOICES[key]:
        raise registry.unknown(key, value, CHOICES[key])


def check_model(table: Mapping[str, Any]) -> None:
    """Refuse a recipe without a model, or with two."""
    entries = table.get("layers")
    if "model" in table:
        if entries:
            raise ValueError("the recipe has a [model] and [[layers]]: leave one of them out")
        return
    if not isinstance(entries, list) or not entries:
        raise ValueError("the recipe has no [[layers]] and no [model]")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
            raise ValueError(f"layers.{index} lacks its type, got {entry!r}")


def check_architecture(table: Mapping[str, Any]) -> None:
    """Refuse an architecture that there is not, or arguments it does not have."""
    if "model" not in table:
        return
    name, arguments = named("model", table["model"], "architecture")
    registry.check_arguments(name, registry.find("architecture", ARCHITECTURES, name), arguments)


def stand_in_trainer(table: Mapping[str, Any]) -> Trainer:
    """What [compile] says, for a model of a single layer, which draws no random numbers."""
    return Trainer(nn.BatchNorm2d(1), **table["compile"])


def check_optimizer(table: Mapping[str, Any]) -> None:
    """Refuse settings that the optimiser does not have.

    Not among `METHODS`: the first optimiser that is made has torch import its compiler, for which
    those who only ask a trained model need not wait.
    """
    trainer = stand_in_trainer(table)
    settings = {**table.get("optimizer", {})}
    settings.pop("no_decay", None)  # may name weights that only the recipe's model has
    spec = {"name": trainer.optimizer_spec, "config": settings}
    try:
        optimizers.get(spec, trainer.model, **trainer.optimizer_options)
    except TypeError as error:
        raise ValueError(f"[optimizer] of the recipe: {error}") from None


def check_methods(table: Mapping[str, Any]) -> None:
    """Make every method once, so that a wrong name or setting is refused before a run."""
    for section, make in METHODS.items():
        try:
            make(table)
        except KeyError as error:
            raise ValueError(f"{section} of the recipe lacks {error}") from None
        except TypeError as error:
            raise ValueError(f"{section} of the recipe: {error}") from None


METHODS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "[[layers]]": add_layers,
    "[model]": check_architecture,
    "[compile]": stand_in_trainer,
    "[optimizer]": optimizer,
    "[schedule]": schedule,
    "[averaging]": average,
    "[regularizers]": penalties,
    "[[augment]]": transforms,
    "[[callbacks]]": callbacks,
}
"""What is made of each section; it refuses what is wrong."""
