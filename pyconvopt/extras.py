"""Optional packages: imported where they are used, and asked for by the extra that brings them."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(package: str, purpose: str, extra: str = "cli") -> ModuleType:
    """The imported package, or an ImportError of one line that says how to install it.

    >>> require('no_such_package', 'drawing')
    Traceback (most recent call last):
    ImportError: drawing needs no_such_package, which is missing: pip install "pyconvopt[cli]"
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.split(".")[0]:
            raise
        raise ImportError(
            f'{purpose} needs {package}, which is missing: pip install "pyconvopt[{extra}]"',
            name=package,
        ) from None
