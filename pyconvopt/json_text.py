"""JSON that every reader takes: it has no NaN and no infinity, so these are null."""

from __future__ import annotations

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """The value with None for each number in it that is not finite.

    >>> finite({'loss': [0.5, float('nan')], 'name': 'a'})
    {'loss': [0.5, None], 'name': 'a'}
    """
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON text.

    >>> to_json({'loss': float('inf')})
    '{"loss": null}'
    """
    return json.dumps(finite(value), indent=indent)
