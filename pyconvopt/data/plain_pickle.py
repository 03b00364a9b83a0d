"""Pickles of plain data, read without running anything from them.

A pickle is a program for a small stack machine, two of whose instructions import and call whatever
the file names. This reader knows the instructions that make numbers, text, tuples, lists and dicts,
and of the calls the three by which NumPy writes an array of bytes; it does those itself, and
imports nothing. Any other instruction or name is an error.

The instructions are those of `pickletools`, which documents the format.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
TEXTS = ("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE")
BYTES = ("BINBYTES", "SHORT_BINBYTES")
PUTS = ("BINPUT", "LONG_BINPUT", "PUT")
GETS = ("BINGET", "LONG_BINGET", "GET")
NO_EFFECT = ("PROTO", "FRAME", "STOP")
BYTE_TYPES = ("u1", "|u1", "uint8")


class Name(NamedTuple):
    """Something the pickle would import; here it stays a name."""

    module: str
    name: str


class Type(NamedTuple):
    """NumPy's type of an array, by the name in the file."""

    name: str


class Array:
    """An array that is still to get its values."""

    values: np.ndarray | None = None


class Mark:
    """Where on the stack the items of a container begin."""


def read(content: bytes) -> Any:
    """The object in a pickle of numbers, text, containers and arrays of bytes.

    Text that Python 2 wrote comes as str, one character a byte.

    Errors: ValueError for a pickle of anything else, or one that is cut short.

    >>> import pickle
    >>> read(pickle.dumps({'labels': [3, 1]}, protocol=2))
    {'labels': [3, 1]}
    >>> read(pickle.dumps(print))
    Traceback (most recent call last):
    ValueError: not a pickle of plain data: it names builtins.print
    """
    machine = Machine()
    try:
        for instruction, argument, _ in pickletools.genops(content):
            machine.run(instruction.name, argument)
        return finished(machine.stack[-1], {})
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a pickle of plain data: {error!r}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a pickle of plain data: {error}") from None


class Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """One instruction; ValueError for one that plain data do not need."""
        stack, memo = self.stack, self.memo
        if name in (*NUMBERS, *TEXTS, *BYTES):
            stack.append(argument)
        elif name in PUTS:
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in GETS:
            stack.append(memo[int(argument)])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            stack.append(Mark())
        elif name == "TUPLE":
            stack.append(tuple(self.to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self.to_mark()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(known(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [known(*stack[-2:])]
        elif name == "REDUCE":
            stack[-2:] = [called(*stack[-2:])]
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Array):
                stack[-1].values = array_of(*state)
            elif not isinstance(stack[-1], Type):
                raise ValueError("it sets the state of an object")
        elif name not in NO_EFFECT:
            raise ValueError(f"it uses the instruction {name}")

    def to_mark(self) -> list[Any]:
        """What lies on the stack above the last mark, taken off with it."""
        at = max(index for index, item in enumerate(self.stack) if isinstance(item, Mark))
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def known(module: str, name: str) -> Name:
    """A name that an array's pickle holds; ValueError for any other."""
    packages = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs")
    if module not in packages or name not in ("ndarray", "dtype", "_reconstruct", "encode"):
        raise ValueError(f"it names {module}.{name}")
    return Name(module, name)


def called(what: Any, arguments: tuple[Any, ...]) -> Any:
    """What one of the calls in an array's pickle stands for."""
    name = what.name if isinstance(what, Name) else None
    if name == "_reconstruct":
        return Array()
    if name == "dtype":
        return Type(arguments[0])
    if name == "encode" and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    raise ValueError(f"it calls {what}")


def array_of(version: int, shape: tuple, kind: Type, fortran: bool, content: Any) -> np.ndarray:
    """An array of bytes from the state NumPy wrote."""
    if not isinstance(kind, Type) or kind.name not in BYTE_TYPES:
        raise ValueError(f"it holds an array of {kind}, wanted unsigned bytes")
    # Bytes that Python 2 wrote are text to the instructions' reader.
    data = content.encode("latin1") if isinstance(content, str) else content
    order: Any = "F" if fortran else "C"
    return np.frombuffer(data, np.uint8).reshape(shape, order=order)


def finished(value: Any, done: dict[int, Any]) -> Any:
    """The object with its arrays in place; `done` are the containers that were met, by their id.

    A container is gone through once, however often a pickle holds it: lists of twice the same
    list, a few deep, would else be more than any machine goes through.
    """
    if isinstance(value, (Name, Type, Mark)):
        raise ValueError(f"it holds {value}")
    if isinstance(value, Array):
        if value.values is None:
            raise ValueError("it holds an array without values")
        return value.values
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: finished(each, done) for key, each in value.items()}
        else:
            done[id(value)] = type(value)(finished(each, done) for each in value)
    return done[id(value)]
