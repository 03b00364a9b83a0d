"""Finding a method by name: one lookup for every table of methods.

A table maps the name a user writes to the thing it stands for. Names are compared without case
and underscores, so Keras' two spellings ('glorot_uniform', 'GlorotUniform') are one. An unknown
name is an error that offers the nearest one. Methods with settings are dataclasses, so that a
saved model can hold them as {"name": ..., "config": ...} and build them again without running
any code from the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

import numpy as np

Entry = TypeVar("Entry")

# An annotation that is checked: of which types a value must be, and how that is said.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool, np.bool_), "true or false"),
    "int": ((Real,), "a whole number"),
    "float": ((Real,), "a number"),
    "str": ((str,), "text"),
    "None": ((type(None),), "None"),
}


def spelling(name: str) -> str:
    """The form in which two names are compared.

    >>> spelling('GlorotUniform') == spelling('glorot_uniform')
    True
    """
    return name.replace("_", "").replace("-", "").lower()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like another, if one does at all.

    >>> nearest('Conv.weight', ['conv.bias', 'conv.weight']), nearest('zzz', ['conv.bias'])
    ('conv.weight', None)
    """
    spellings: dict[str, str] = {}
    for each in known:
        spellings.setdefault(spelling(each), each)
    near = difflib.get_close_matches(spelling(name), spellings, n=1, cutoff=0.5)
    return spellings[near[0]] if near else None


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that no table holds; it offers the nearest one.

    >>> unknown('loss', 'mze', ['mse', 'mae'])
    ValueError("unknown loss 'mze': did you mean 'mse'? Known: mae, mse")
    """
    known = sorted(known)
    near = nearest(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    return ValueError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}")


def check_arguments(of: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a class or function does not take, or of another kind than it says."""
    refuse_unknown(of, make, arguments)
    refuse_wrong_kinds(of, make, arguments)


def refuse_unknown(of: str, make: Callable[..., Any], arguments: Iterable[str]) -> None:
    """An error for an argument that a class or function does not take; it offers the nearest one.

    >>> def cosine(lr, n): ...
    >>> try:
    ...     refuse_unknown('cosine', cosine, ['lr', 'm'])
    ... except ValueError as error:
    ...     print(error)
    unknown argument of cosine 'm': Known: lr, n
    """
    parameters = inspect.signature(make).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            raise unknown(f"argument of {of}", name, parameters)


def refuse_wrong_kinds(of: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """An error for what is no truth value, number or text where a class or function says it is.

    Only annotations made of the names in `KINDS` are looked at.

    >>> def cosine(lr: float, restart: bool = False): ...
    >>> try:
    ...     refuse_wrong_kinds('cosine', cosine, {'restart': 'no'})
    ... except ValueError as error:
    ...     print(error)
    cosine: restart must be true or false, got 'no'
    """
    parameters = inspect.signature(make).parameters
    for name, value in arguments.items():
        annotation = parameters[name].annotation if name in parameters else ""
        written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        kinds = written.split(" | ")
        if not all(kind in KINDS for kind in kinds) or any(is_of(kind, value) for kind in kinds):
            continue
        wanted = " or ".join(KINDS[kind][1] for kind in kinds)
        raise ValueError(f"{of}: {name} must be {wanted}, got {value!r}")


def is_of(kind: str, value: Any) -> bool:
    """Whether a value is of a kind; a truth value is no number.

    >>> is_of('bool', np.True_), is_of('float', True), is_of('float', np.float32(0.5))
    (True, False, True)
    """
    return isinstance(value, KINDS[kind][0]) and (kind == "bool" or not isinstance(value, bool))


def find(kind: str, table: Mapping[str, Entry], name: str) -> Entry:
    """The entry of `table` with that name, or an error that offers the nearest name."""
    if not isinstance(name, str):
        raise ValueError(f"{kind} must be a name, got {name!r}")
    if name in table:
        return table[name]
    for known, entry in table.items():
        if spelling(known) == spelling(name):
            return entry
    raise unknown(kind, name, table)


def make(kind: str, table: Mapping[str, Any], spec: Any) -> Any:
    """An object from a name, from what `describe` returned, or the object itself.

    Errors: ValueError for an unknown name, a setting the method does not have or one of a wrong
    kind, TypeError for something that cannot be called.
    """
    if isinstance(spec, str):
        return find(kind, table, spec)()
    if isinstance(spec, Mapping):
        name, settings = spec.get("name"), spec.get("config", {})
        if not isinstance(name, str):
            raise ValueError(f"{kind}: a mapping needs the method's 'name', got {dict(spec)!r}")
        for key in spec:
            if key not in ("name", "config"):
                raise ValueError(
                    f"{kind} {name}: settings such as {key!r} belong into its 'config'"
                )
        entry = find(kind, table, name)
        check_arguments(f"{kind} {name}", entry, settings)
        try:
            return entry(**settings)
        except TypeError as error:
            raise ValueError(f"{kind} {name!r}: {error}") from None
    if isinstance(spec, type):
        raise TypeError(f"got the class {spec.__name__} for {kind}: write {spec.__name__}()")
    if callable(spec):
        return spec
    raise TypeError(f"{kind} must be a name or an object that can be called, got {spec!r}")


def describe(kind: str, table: Mapping[str, Any], method: Any) -> dict[str, Any]:
    """The name and settings of a method from `table`, ready for JSON; `make` reads it back.

    Errors: ValueError for an object that no table holds: a file could not bring it back.
    """
    for name, entry in table.items():
        if entry is type(method) and dataclasses.is_dataclass(entry):
            return {"name": name, "config": dataclasses.asdict(method)}
    raise ValueError(
        f"{kind} {method!r} cannot be saved: a file holds only methods known by name "
        f"({', '.join(sorted(table))})"
    )
