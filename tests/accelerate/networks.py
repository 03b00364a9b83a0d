"""Small copies of the architectures in use, each with what is particular about it; comparing steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..nn.helpers import assert_same, same_layout


def article() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 9, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip


def vgg(dropout: float = 0.0) -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True)]  # fmt: skip

    return nn.Sequential(
        nn.Sequential(*block(3, 16), nn.Dropout(dropout), *block(16, 16), nn.MaxPool2d(2, 2)),
        nn.Sequential(*block(16, 32), nn.MaxPool2d(2), nn.Dropout(dropout)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, inputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inputs)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return (x + self.bn3(self.conv3(y))).relu()


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 32, 2))
        self.layer2 = nn.Sequential(Bottleneck(32, 16), Bottleneck(32, 16))
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv1(F.relu(self.bn1(x), inplace=True))
        y = self.conv2(F.relu_(self.bn2(y)))
        return (x + y).mean((2, 3))


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 8 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(16 + 8 * i, 8, 3, padding=1) for i in range(3))

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return F.avg_pool2d(torch.cat(features, 1), 2)


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def part(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU6(inplace=True),
            )

        self.stem = part(3, 16, 3, 2)
        self.expand = part(16, 48, 1)
        self.depthwise = part(48, 48, 3, groups=48)
        self.project = nn.Sequential(nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16))

    def forward(self, x):
        x = self.stem(x)
        return x + self.project(self.depthwise(self.expand(x)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def double(inputs: int, outputs: int):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True),
                nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True),
            )  # fmt: skip

        self.down, self.bottom, self.up = double(3, 16), double(16, 32), double(32, 16)
        self.pool = nn.MaxPool2d(2)
        self.rise = nn.ConvTranspose2d(32, 16, 2, 2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        a = self.down(x)
        b = self.rise(self.bottom(self.pool(a)))
        return self.out(self.up(torch.cat([a, b], dim=1)))


class ViewAfterConvolution(nn.Module):
    """Looks at the order in memory: works in torch because its maps lie as (N, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 8 * 8, 5)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
        return self.fc(x.view(x.size(0), -1))


class Shuffle(nn.Module):
    """Channels shuffled by views, between grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 16, 3, padding=1, groups=2)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, groups=2)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return F.relu(self.conv2(x.view(batch, -1, height, width)))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x):
        x = F.silu(self.bn(self.conv(x)))
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(scale))))


NETWORKS = {
    "article": (article, (4, 1, 28, 28)),
    "vgg": (vgg, (4, 3, 16, 16)),
    "resnet": (ResNet, (4, 3, 16, 16)),
    "pre_activation": (PreActivation, (4, 3, 12, 12)),
    "densenet": (DenseBlock, (4, 3, 12, 12)),
    "mobilenet": (MobileNet, (4, 3, 16, 16)),
    "unet": (UNet, (4, 3, 16, 16)),
    "view": (ViewAfterConvolution, (4, 3, 16, 16)),
    "shuffle": (Shuffle, (4, 4, 12, 12)),
    "squeeze_excite": (SqueezeExcite, (4, 3, 12, 12)),
}


def pair_of(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network, its batch norms away from their start, and an input."""
    make, shape = NETWORKS[name]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model, torch.randn(shape)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (4, 3, 16, 16)))


def as_written(model: nn.Module) -> set[nn.Module]:
    """The parts of the model's graph that run as written."""
    return model._pyconvopt_plans.as_written


def step(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output of a forward and backward pass, and all gradients, the input's first."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.backward(torch.sin(torch.arange(y.numel()).to(y)).view(y.shape))
    return y, [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def assert_same_network_step(ours: nn.Module, theirs: nn.Module, x: torch.Tensor, bound: float):
    """Outputs, their strides, statistics and gradients.

    A gradient that is zero but for rounding (that of a bias in front of a batch norm) is compared
    with the size of the others.
    """
    (y, gradients), (wanted, others) = step(ours, x), step(theirs, x)
    assert_same(y, wanted, bound)
    assert same_layout(y, wanted)
    size = max(g.square().mean().sqrt().item() for g in others)
    for ours_g, wanted_g in zip(gradients, others, strict=True):
        rms = wanted_g.square().mean().sqrt().item()
        assert (ours_g - wanted_g).abs().max().item() <= bound * max(rms, size / 100)
    for b, c in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_same(b, c, 1e-4)
