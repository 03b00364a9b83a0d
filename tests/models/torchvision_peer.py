"""torchvision's models, also where its compiled operators do not load.

A torchvision built for CUDA finds no operator library beside torch's CPU build, and then fails to
describe two of its own operators. The models use neither; declaring them lets the import pass.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

OPERATORS = ("nms", "qnms")
_library = None


def torchvision_models() -> ModuleType:
    """The module torchvision.models; the test is skipped where there is none."""
    global _library
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        import torchvision.models
    except RuntimeError:
        _library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.models
    return torchvision.models
