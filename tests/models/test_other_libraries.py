"""Models of torchvision and timm accelerated beside themselves: outputs and gradients.

Where neither is installed the tests are skipped. Weights are random; small images; what is random
in training (dropout, stochastic depth) is switched off, as its draws differ. Bounds and their
reasons: `test_accelerated`.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import pyconvopt as pco
from tests.models.test_accelerated import FORWARD, GRADIENTS, relative
from tests.models.torchvision_peer import torchvision_models
from tests.nn.helpers import same_layout

TORCHVISION = {
    "resnet18": {},
    "resnet50": {},
    "resnext50_32x4d": {},
    "vgg16_bn": {},
    "densenet121": {},
    "mobilenet_v2": {},
    "mobilenet_v3_large": {},
    "efficientnet_b0": {},
    "regnet_y_400mf": {},
    "convnext_tiny": {},
    "shufflenet_v2_x1_0": {},
    "squeezenet1_1": {},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "googlenet": {"aux_logits": False, "init_weights": False},
}
BACKBONES = ["resnet18", "resnet50", "mobilenet_v2"]
TIMM = [
    "resnet18", "resnext50_32x4d", "vgg11_bn", "densenet121", "mobilenetv2_100",
    "mobilenetv3_large_100", "efficientnet_b0", "regnety_002", "convnext_atto", "dla34",
    "cspresnet50", "rexnet_100", "ghostnet_100", "resnetv2_50",
]  # fmt: skip
# On small maps torch itself is some 6e-5 from float64 here, five times as far as in the others.
SIZE, ROOM = {"inception_v3": 160}, {"inception_v3": 5}


def tensors(outputs):
    """The outputs of a classifier, or of a backbone's levels."""
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def without_chance(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("drop_prob", "drop_rate"):  # timm
            if hasattr(module, name):
                setattr(module, name, 0.0)
        if type(module).__name__ == "StochasticDepth":  # torchvision
            module.p = 0.0
    return model


def step(model, x):
    """The outputs, and all gradients in one vector."""
    model.zero_grad()
    outputs = tensors(model(x))
    sum(
        (y * torch.sin(torch.arange(y.numel()).to(y)).view(y.shape)).sum() for y in outputs
    ).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return [y.detach() for y in outputs], torch.cat(gradients)


def assert_accelerated_is_plain(plain, size=64, room=1):
    without_chance(plain)
    fast = pco.accelerate(copy.deepcopy(plain))
    assert repr(fast) == repr(plain) and list(fast.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, size, size)
    for training in (True, False):
        (outputs, gradient), (wanted, other) = (step(m.train(training), x) for m in (fast, plain))
        for y, expected in zip(outputs, wanted, strict=True):
            assert same_layout(y, expected)
            assert relative(y, expected) <= room * FORWARD
        assert relative(gradient, other) <= GRADIENTS[training]
    with torch.no_grad():
        for y, expected in zip(tensors(fast(x)), tensors(plain(x)), strict=True):
            assert relative(y, expected) <= room * FORWARD


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    model = getattr(torchvision_models(), name)(num_classes=7, **TORCHVISION[name])
    assert_accelerated_is_plain(model, SIZE.get(name, 64), ROOM.get(name, 1))


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_detection(name):
    torchvision_models()
    from torchvision.models.detection import backbone_utils

    if name == "mobilenet_v2":
        backbone = backbone_utils.mobilenet_backbone(
            backbone_name=name, weights=None, fpn=True, norm_layer=nn.BatchNorm2d
        )
    else:
        backbone = backbone_utils.resnet_fpn_backbone(
            backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
    assert_accelerated_is_plain(backbone)


def test_backbone_with_frozen_batch_norm():
    torchvision_models()
    from torchvision.models.detection import backbone_utils

    backbone = backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=3
    )
    assert_accelerated_is_plain(backbone)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    torchvision_models()  # timm imports it
    import timm

    assert_accelerated_is_plain(timm.create_model(name, num_classes=7))
