"""One file for a model: weights as safetensors, architecture and compile settings in its header.

The header holds JSON: layers by the names of `layers.TABLE`, methods by the names of their
tables. Loading looks names up and calls their constructors; nothing in the file is run. The file
is written beside its place and renamed, so a save that is cut short leaves the old file whole.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyconvopt import losses, metrics, regularizers, schedules
from pyconvopt.extras import require
from pyconvopt.files import write_whole
from pyconvopt.layers.base import plain

if TYPE_CHECKING:
    from pyconvopt.models.sequential import Sequential

HEADER_KEY = "pyconvopt"
FORMAT_VERSION = 1


def architecture(model: Sequential) -> dict[str, Any]:
    """The model as JSON can hold it, without weights."""
    return {
        "version": FORMAT_VERSION,
        "name": model.name,
        "input_shape": list(model.input_shape[1:]) if model.input_shape else None,
        "layers": [
            {
                "class": type(layer).__name__,
                "config": layer.get_config(),
                "trainable": layer.trainable,
            }
            for layer in model.layers
        ],
        "frozen": [name for name, each in model.named_parameters() if not each.requires_grad],
        "compile": compile_settings(model),
    }


def compile_settings(model: Sequential) -> dict[str, Any] | None:
    """How the model was compiled, as far as names can say it: all options but the callbacks."""
    trainer = model._trainer
    if trainer is None:
        return None
    settings: dict[str, Any] = {}
    try:
        if not is_plain(trainer.optimizer_spec):
            raise ValueError(f"optimizer {trainer.optimizer_spec!r} is not known by a name")
        settings |= {
            "optimizer": trainer.optimizer_spec,
            "loss": losses.describe(trainer.loss),
            "metrics": [metrics.describe(metric) for metric in trainer.metrics],
            **trainer.given_options,
        }
    except ValueError as error:
        warnings.warn(
            f"saved without its compile settings ({error}); compile the model after loading it",
            stacklevel=5,
        )
        return None
    for name, describe, given in (
        ("schedule", schedules.describe, trainer.schedule),
        ("regularizers", describe_penalties, trainer.regularizers),
    ):
        try:
            settings |= {} if given is None else {name: describe(given)}
        except ValueError as error:
            warnings.warn(
                f"saved without its {name} ({error}); give it to compile() after loading the model",
                stacklevel=5,
            )
    return settings


def is_plain(spec: Any) -> bool:
    """Whether a name, or one with settings, holds nothing that JSON cannot.

    >>> is_plain({"name": "sam", "config": {"base": "adam"}}), is_plain({"name": torch.optim.SGD})
    (True, False)
    """
    if not isinstance(spec, (str, Mapping)):
        return False
    try:
        json.dumps(spec, default=plain)
    except (TypeError, ValueError):
        return False
    return True


def describe_penalties(patterns: Mapping[str, Any]) -> dict[str, Any]:
    """Patterns of weights' names and their penalties, as `compile(regularizers=)` takes them."""
    return {
        pattern: regularizers.describe(regularizers.get(spec)) for pattern, spec in patterns.items()
    }


def from_architecture(config: dict[str, Any]) -> Sequential:
    """The built, untrained model that `architecture` described."""
    from pyconvopt.layers import make_layer
    from pyconvopt.models.sequential import Sequential

    model = Sequential(name=config["name"])
    if config["input_shape"] is not None:
        model.start_from(config["input_shape"])
    for entry in config["layers"]:
        trainable = entry.get("trainable", True)
        model.add(make_layer({"type": entry["class"], **entry["config"], "trainable": trainable}))
    if "frozen" in config:  # not in files of earlier versions
        frozen = set(config["frozen"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
    if config.get("compile"):
        model.compile(**config["compile"])
    return model


def save(model: Sequential, path: str | Path) -> None:
    """Write the model to one file; see `Sequential.save`."""
    to_bytes = require("safetensors.torch", "saving a model").save
    if not model.built:
        raise ValueError("the model is not built yet: there are no weights to save")
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if names.setdefault(id(parameter), name) != name:
            raise ValueError(
                f"{names[id(parameter)]} and {name} are one weight, which no model file can say: "
                "give each layer its own before saving"
            )
    header = {HEADER_KEY: json.dumps(architecture(model), default=plain)}
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, to_bytes(state, header))


def load(path: str | Path) -> Sequential:
    """The model that `Sequential.save` wrote, built, with its weights and compile settings.

    The optimiser's own state (moments) is not in the file: training goes on, but not bit for bit.

    Errors: FileNotFoundError; ValueError for a damaged file or one that holds no such model.
    """
    read = require("safetensors", "loading a model")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with read.safe_open(str(path), framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except read.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    if header is None:
        raise ValueError(
            f"{path} holds weights but no model: got no {HEADER_KEY!r} entry in its header, wanted "
            "a file that Sequential.save wrote"
        )
    try:
        model = from_architecture(json.loads(header))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its header does not describe a model ({error!r})") from None
    wanted, got = set(model.state_dict()), set(state)
    if wanted != got:
        odd = sorted(wanted ^ got)
        raise ValueError(f"{path}: weights and architecture differ in {', '.join(odd)}")
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(state[name].shape)}, wanted "
                    f"{tuple(tensor.shape)}"
                )
            tensor.data = tensor.data.to(state[name].dtype)
            tensor.copy_(state[name])
    return model
