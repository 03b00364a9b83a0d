"""Known architectures as plain torch modules, on this library's kernels.

Each takes `num_classes`, `in_channels` and, where it was made for large images, `small_images`, and
gives logits. Those that torchvision has too have its names and shapes of parameters, so that its
weights load: `model.load_state_dict(torchvision.models.resnet18(weights=...).state_dict())`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pyconvopt import registry
from pyconvopt.models.architectures.convnext import convnext_tiny
from pyconvopt.models.architectures.densenet import densenet121
from pyconvopt.models.architectures.efficientnet import efficientnet_b0
from pyconvopt.models.architectures.inception import inception_v3
from pyconvopt.models.architectures.mobilenet import (
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from pyconvopt.models.architectures.regnet import regnet_y_400mf
from pyconvopt.models.architectures.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnext50_32x4d,
    wide_resnet50_2,
)
from pyconvopt.models.architectures.small_resnet import resnet_cifar, wide_resnet
from pyconvopt.models.architectures.squeezenet import squeezenet1_1
from pyconvopt.models.architectures.unet import unet
from pyconvopt.models.architectures.vgg import vgg11_bn, vgg16_bn

# The architectures a recipe or a saved model may name: one line each.
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    make.__name__: make
    for make in (
        resnet18,
        resnet34,
        resnet50,
        resnext50_32x4d,
        wide_resnet50_2,
        resnet_cifar,
        wide_resnet,
        vgg11_bn,
        vgg16_bn,
        mobilenet_v2,
        mobilenet_v3_small,
        mobilenet_v3_large,
        densenet121,
        efficientnet_b0,
        convnext_tiny,
        regnet_y_400mf,
        inception_v3,
        squeezenet1_1,
        unet,
    )
}


def build(architecture: str, **arguments: Any) -> nn.Module:
    """The architecture of that name, with random weights.

    Errors: ValueError for an unknown name, or an argument it does not have.

    >>> build('resnet_cifar', depth=8, num_classes=5).fc
    Linear(in_features=64, out_features=5, bias=True)
    """
    make = registry.find("architecture", ARCHITECTURES, architecture)
    registry.refuse_unknown(make.__name__, make, arguments)
    return make(**arguments)


__all__ = [*ARCHITECTURES, "ARCHITECTURES", "build"]
