"""Settings of the kernels: ``pco.settings(winograd=False)`` sets, ``with pco.settings(…):`` borrows.

The module itself is callable, so that ``pyconvopt.settings`` is both the place and the setter.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, TracebackType
from typing import Any

from . import _C

_generation = 0
_recompute = os.environ.get("PYCONVOPT_RECOMPUTE", "1") != "0"
_trial = os.environ.get("PYCONVOPT_TRIAL", "0") != "0"
_cuda = {
    "cuda_conv": "cudnn",
    "cuda_fallback": os.environ.get("PYCONVOPT_CUDA_FALLBACK", "0") != "0",
}

# name -> (read, write); adding a setting is adding a line
_TABLE: dict[str, tuple[Any, Any]] = {
    "isa": (_C.isa, lambda value: _C.set_isa(_isa(value))),
    "winograd": (_C.winograd, lambda value: _C.set_winograd(_bool("winograd", value))),
    "deterministic": (lambda: True, lambda value: _require_deterministic(value)),
    "keep_memory": (_C.freed_memory_is_kept, lambda value: _keep_memory(value)),
    "recompute": (lambda: recompute(), lambda value: _set_recompute(value)),
    "trial": (lambda: trial(), lambda value: _set_trial(value)),
    "workspace": (_C.arena_cap, lambda value: _C.arena_set_cap(_bytes(value))),
    "cuda_conv": (lambda: cuda_conv(), lambda value: _set_cuda_conv(value)),
    "cuda_math": (lambda: _cuda_math(), lambda value: _set_cuda_math(value)),
    "cuda_fallback": (lambda: cuda_fallback(), lambda value: _set_cuda_fallback(value)),
}


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return value


def _isa(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    names = ", ".join(map(repr, ("auto", "reference", *_C.available_isas())))
    error = ValueError if value == "" else TypeError
    raise error(f"isa must be one of {names}, got {value!r}")


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"workspace must be a number of bytes, 0 to 2**64 - 1, got {value!r}")
    return value


def _keep_memory(value: bool) -> None:
    _C.keep_freed_memory(_bool("keep_memory", value))


def recompute() -> bool:
    """Whether large maps are made again for backward where that is cheap, instead of being kept."""
    return _recompute


def _set_recompute(value: bool) -> None:
    global _recompute
    _recompute = _bool("recompute", value)


def trial() -> bool:
    """Whether a convolution's kernels are timed where a shape is first met: see `pyconvopt.trials`."""
    return _trial


def _set_trial(value: bool) -> None:
    global _trial
    _trial = _bool("trial", value)


def _require_deterministic(value: bool) -> None:
    # Every kernel's result is a function of its inputs alone, whatever the thread count.
    _bool("deterministic", value)


def cuda_conv() -> str:
    """Whose dense convolution CUDA tensors get: ``"cudnn"`` (torch's) or ``"native"``."""
    return str(_cuda["cuda_conv"])


def _set_cuda_conv(value: str) -> None:
    if value not in ("cudnn", "native"):
        raise ValueError(f"cuda_conv must be 'cudnn' or 'native', got {value!r}")
    _cuda["cuda_conv"] = value


def _cuda_math() -> str:
    return next(name for name, value in _C.CUDA_MATH.items() if value == _C.cuda_math())


def _set_cuda_math(value: str) -> None:
    if value not in _C.CUDA_MATH:
        raise ValueError(f"cuda_math must be one of {', '.join(_C.CUDA_MATH)}, got {value!r}")
    _C.set_cuda_math(_C.CUDA_MATH[value])


def cuda_fallback() -> bool:
    """Whether torch's kernels take CUDA tensors where the plug-in cannot run."""
    return bool(_cuda["cuda_fallback"])


def _set_cuda_fallback(value: bool) -> None:
    _cuda["cuda_fallback"] = _bool("cuda_fallback", value)


_set_cuda_conv(os.environ.get("PYCONVOPT_CUDA_CONV", "cudnn"))


def generation() -> int:
    """A number that changes with every change of a setting: part of the key of cached choices."""
    return _generation


def renew() -> None:
    """Have all cached choices made anew."""
    global _generation
    _generation += 1


def current() -> dict[str, Any]:
    """All settings as a dict.

    >>> sorted(current())  # doctest: +NORMALIZE_WHITESPACE
    ['cuda_conv', 'cuda_fallback', 'cuda_math', 'deterministic', 'isa', 'keep_memory', 'recompute',
     'trial', 'winograd', 'workspace']
    """
    return {name: read() for name, (read, _) in _TABLE.items()}


def _apply(values: dict[str, Any]) -> None:
    for name, value in values.items():
        _TABLE[name][1](value)
    renew()


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
            winograd: whether 3×3 and 5×5 convolutions may use Winograd's algorithm (default True;
                environment: ``PYCONVOPT_WINOGRAD``). Off, results have direct convolution's
                rounding.
            deterministic: accepted for torch's sake; the kernels always are.
            keep_memory: whether freed memory is kept for the next step instead of being given back
                and faulted in again: by glibc's malloc (whole process), and in a memory of their
                own for maps of 1 MiB and more that the operators return (default True;
                environment: ``PYCONVOPT_KEEP_MEMORY``). False gives back what is idle at once.
            recompute: whether a convolution keeps the input of the batch norm before it in the place
                of its own input, and makes that again, to the bit, for backward: less memory for one more
                pass over the map (default True; environment: ``PYCONVOPT_RECOMPUTE``). Maps of
                4 MiB and more.
            trial: whether, for each pass of each convolution's shape, this library's kernel and torch's
                are timed when it is first met on the CPU, and the faster one is kept, instead of
                taking what a table says (default False; environment: ``PYCONVOPT_TRIAL=1``). Two runs,
                or numbers of threads, may then choose differently and so differ in the last bits;
                `pyconvopt.trials` says how to keep the choices.
            workspace: bytes the kernels' workspace may keep while idle (default 1 GiB); less is
                given back at once, 0 empties it.
            cuda_conv: whose dense convolution CUDA tensors get: ``"cudnn"``, torch's (default), or
                ``"native"``, this library's (environment: ``PYCONVOPT_CUDA_CONV``).
            cuda_math: what ``cuda_conv="native"`` computes in: ``"float32"`` (default), or on tensor
                cores ``"tf32"`` or ``"bfloat16"``, to which both factors are rounded (11 and 8 bits
                of mantissa); sums are float32.
            cuda_fallback: whether torch's kernels take CUDA tensors where this library's plug-in is
                missing or cannot run; else that is an error (default False; environment:
                ``PYCONVOPT_CUDA_FALLBACK=1``).

        Raises:
            TypeError: for an unknown setting, or what is no bool or no name where one is wanted.
            ValueError: for an instruction set that the processor has not, a number of bytes below 0
                or from 2**64 on, or an unknown value.

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
