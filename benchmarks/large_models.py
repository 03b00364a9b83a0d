"""Deeper networks of the benchmarks, in torch's manner (see `models`): ResNet-50, DenseNet-121, U-Net."""

from __future__ import annotations

from typing import Any


def shortcut(nn: Any, inputs: int, outputs: int, stride: int) -> Any:
    """What a residual block's input goes through to be of its output's shape; None if it is."""
    if stride == 1 and inputs == outputs:
        return None
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def bottleneck(nn: Any, inputs: int, width: int, stride: int) -> Any:
    """He et al. 2015 (arXiv:1512.03385): 1×1, 3×3 (with the stride) and 1×1 beside a shortcut."""
    outputs = 4 * width

    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = shortcut(nn, inputs, outputs, stride)

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            y += x if self.downsample is None else self.downsample(x)
            return self.relu(y)

    return Bottleneck()


def stem(nn: Any) -> list[Any]:
    """What images of 224 pixels go through first: a quarter of the size, 64 channels."""
    conv = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    return [conv, nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]


def resnet50(nn: Any) -> Any:
    blocks, inputs = [], 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for index in range(count):
            stride = 2 if stage and not index else 1
            blocks.append(bottleneck(nn, inputs, width, stride))
            inputs = 4 * width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return nn.Sequential(*stem(nn), *blocks, *head)


def dense_layer(nn: Any, inputs: int, growth: int) -> Any:
    """Huang et al. 2017 (arXiv:1608.06993): 32 channels more, made from all before."""

    class DenseLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = 4 * growth
            self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, growth, 3, padding=1, bias=False)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            from torch import cat

            y = self.conv1(self.relu(self.norm1(x)))
            return cat([x, self.conv2(self.relu(self.norm2(y)))], 1)

    return DenseLayer()


def densenet121(nn: Any) -> Any:
    parts, channels, growth = stem(nn), 64, 32
    for stage, count in enumerate((6, 12, 24, 16)):
        if stage:
            halved = channels // 2
            parts += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            parts += [nn.Conv2d(channels, halved, 1, bias=False), nn.AvgPool2d(2)]
            channels = halved
        for _ in range(count):
            parts.append(dense_layer(nn, channels, growth))
            channels += growth
    parts += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def unet(nn: Any) -> Any:
    """Ronneberger et al. 2015 (arXiv:1505.04597) with padding and batch norm, three halvings.

    Its logits of each pixel are averaged, so that an image has one label as with the other models.
    """

    def double(inputs: int, outputs: int) -> Any:
        parts = []
        for source in (inputs, outputs):
            conv = nn.Conv2d(source, outputs, 3, padding=1, bias=False)
            parts += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (32, 64, 128, 256)
            self.down = nn.ModuleList(
                [double(a, b) for a, b in zip((3, *widths), widths, strict=False)]
            )
            self.pool = nn.MaxPool2d(2)
            pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
            self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs])
            self.join = nn.ModuleList([double(2 * b, b) for _, b in pairs])
            self.head = nn.Sequential(
                nn.Conv2d(widths[0], 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )

        def forward(self, x: Any) -> Any:
            from torch import cat

            skipped = []
            for index, down in enumerate(self.down):
                x = down(self.pool(x) if index else x)
                skipped.append(x)
            skipped.pop()
            for up, join in zip(self.up, self.join, strict=True):
                x = join(cat([skipped.pop(), up(x)], 1))
            return self.head(x)

    return UNet()
