"""Settings of the kernels: ``pco.settings(winograd=False)`` sets, ``with pco.settings(…):`` borrows.

The module itself is callable, so that ``pyconvopt.settings`` is both the place and the setter.
"""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType
from typing import Any

from . import _C

_generation = 0

# name -> (read, write); adding a setting is adding a line
_TABLE: dict[str, tuple[Any, Any]] = {
    "isa": (_C.isa, _C.set_isa),
    "winograd": (_C.winograd, _C.set_winograd),
    "deterministic": (lambda: True, lambda value: _require_deterministic(value)),
    "keep_memory": (_C.freed_memory_is_kept, lambda value: _C.keep_freed_memory(_bool(value))),
    "workspace": (_C.arena_cap, lambda value: _C.arena_set_cap(_bytes(value))),
}


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"keep_memory must be a bool, got {value!r}")
    return value


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"workspace must be a number of bytes, 0 or more, got {value!r}")
    return value


def _require_deterministic(value: bool) -> None:
    # Every kernel's result is a function of its inputs alone, whatever the thread count.
    if not isinstance(value, bool):
        raise TypeError(f"deterministic must be a bool, got {value!r}")


def generation() -> int:
    """A number that changes with every change of a setting: part of the key of cached choices."""
    return _generation


def current() -> dict[str, Any]:
    """All settings as a dict.

    >>> sorted(current())
    ['deterministic', 'isa', 'keep_memory', 'winograd', 'workspace']
    """
    return {name: read() for name, (read, _) in _TABLE.items()}


def _apply(values: dict[str, Any]) -> None:
    global _generation
    for name, value in values.items():
        _TABLE[name][1](value)
    _generation += 1


class _Settings:
    """The result of a call: already in force; leaving it as a context restores what was before."""

    def __init__(self, previous: dict[str, Any]) -> None:
        self._previous = previous

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _apply(self._previous)


class _CallableModule(ModuleType):
    """Lets the module be called: see `pyconvopt.settings`."""

    def __call__(self, **values: Any) -> _Settings:
        """Change settings, for good or for the length of a ``with`` block.

        Args:
            isa: instruction set to run on: ``"avx512"``, ``"avx2"``, ``"baseline"``, or ``"auto"``
                for the best the processor has (default; environment: ``PYCONVOPT_ISA``).
            winograd: whether 3×3 convolutions may use Winograd's algorithm (default True;
                environment: ``PYCONVOPT_WINOGRAD``). Off, results have direct convolution's
                rounding.
            deterministic: accepted for torch's sake; the kernels always are.
            keep_memory: whether glibc's malloc keeps freed memory for the next step instead of
                giving it back and faulting it in again (default True; environment:
                ``PYCONVOPT_KEEP_MEMORY``). False gives back what it can at once. Whole process.
            workspace: bytes the kernels' workspace may keep while idle (default 1 GiB); less is
                given back at once, 0 empties it.

        Raises:
            TypeError: for an unknown setting.
            ValueError: for an instruction set that the processor has not, or a negative number of bytes.

        >>> import pyconvopt as pco
        >>> with pco.settings(winograd=False):
        ...     pco.settings.current()["winograd"]
        False
        """
        unknown = sorted(set(values) - set(_TABLE))
        if unknown:
            raise TypeError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(_TABLE))}")
        previous = {name: _TABLE[name][0]() for name in values}
        try:
            _apply(values)
        except Exception:
            _apply(previous)
            raise
        return _Settings(previous)


sys.modules[__name__].__class__ = _CallableModule
