"""What `pco.settings` refuses, and that a refusal changes nothing."""

from __future__ import annotations

import pytest

import pyconvopt as pco

BOOLS = ["winograd", "trial", "recompute", "keep_memory", "deterministic", "cuda_fallback"]


@pytest.mark.parametrize("value", [None, 1, 0, "no", [], 1.0], ids=repr)
@pytest.mark.parametrize("name", BOOLS)
def test_switches_take_bools_alone(name, value):
    before = pco.settings.current()
    with pytest.raises(TypeError, match=f"^{name} must be a bool, got "):
        pco.settings(**{name: value})
    assert pco.settings.current() == before


@pytest.mark.parametrize(
    ("value", "kind"), [(None, TypeError), (2, TypeError), (b"avx2", TypeError), ("", ValueError)]
)
def test_instruction_sets(value, kind):
    before = pco.settings.current()
    with pytest.raises(kind, match=r"^isa must be one of 'auto', .*'baseline', .*got "):
        pco.settings(winograd=not before["winograd"], isa=value)
    assert pco.settings.current() == before


@pytest.mark.parametrize("value", [-1, 1 << 64, 1 << 100, 1.5, True, None, "1"], ids=repr)
def test_sizes_of_the_workspace(value):
    before = pco.settings.current()
    with pytest.raises(ValueError, match=r"^workspace must be a number of bytes, 0 to 2"):
        pco.settings(workspace=value)
    assert pco.settings.current() == before


def test_largest_workspace():
    with pco.settings(workspace=(1 << 64) - 1):
        assert pco.settings.current()["workspace"] == (1 << 64) - 1
