"""The models that are measured: one table.

A model is written twice, in torch's manner for the namespace `nn` (torch.nn, or a namespace that
has some of its modules replaced) and in Keras' manner for the namespace `layers` (keras.layers or
pyconvopt.layers). Neither library is imported here: a peer's process has only its own. Both forms
end in logits, and have the same parameters in the same order, so that `weight` can give every
peer the same start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import large_models

LEARNING_RATE = 0.01
MOMENTUM = 0.9
# torch's batch norm; Keras' own defaults are 0.99 (the share that stays) and 1e-3.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


@dataclass(frozen=True)
class Model:
    """A line of the table.

    name: what `--models` takes. input_shape: height, width, channels. batch: images a step.
    torch: nn -> module. keras: (layers, activation of the output) -> list of layers, or None
    while the model has no such form. random: it draws random numbers, so losses agree only
    roughly between peers.
    """

    name: str
    input_shape: tuple[int, int, int]
    batch: int
    torch: Callable[[Any], Any]
    keras: Callable[[Any, str], list[Any]] | None = None
    classes: int = 10
    random: bool = False


def article(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def article_keras(layers: Any, output: str = "linear") -> list[Any]:
    return [
        layers.Conv2D(32, (3, 3), activation="relu"),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation=output),
    ]


def article_bn(nn: Any) -> Any:
    def block(inputs: int, outputs: int) -> list[Any]:
        return [nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        *block(32, 64),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        *block(64, 64),
        nn.Flatten(),
        nn.Linear(576, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    )


def article_bn_keras(layers: Any, output: str = "linear") -> list[Any]:
    def block(channels: int) -> list[Any]:
        return [
            layers.Conv2D(channels, (3, 3), use_bias=False),
            layers.BatchNormalization(**BATCH_NORM),
            layers.Activation("relu"),
        ]

    return [
        *block(32),
        layers.MaxPooling2D((2, 2)),
        layers.Dropout(0.25),
        *block(64),
        layers.MaxPooling2D((2, 2)),
        layers.Dropout(0.25),
        *block(64),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10, activation=output),
    ]


# Channels of VGG's convolutions, "M" for max-pooling: VGG-11 (A), half as wide, for 32×32 images.
VGG = (32, "M", 64, "M", 128, 128, "M", 256, 256, "M")


def vgg_bn(nn: Any) -> Any:
    parts: list[Any] = []
    inputs = 3
    for width in VGG:
        if width == "M":
            parts += [nn.MaxPool2d(2), nn.Dropout(0.25)]
        else:
            parts += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            parts += [nn.ReLU(inplace=True)]
            inputs = width
    head = [nn.Linear(1024, 256), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(256, 10)]
    return nn.Sequential(*parts, nn.Flatten(), *head)


def vgg_bn_keras(layers: Any, output: str = "linear") -> list[Any]:
    parts: list[Any] = []
    for width in VGG:
        if width == "M":
            parts += [layers.MaxPooling2D((2, 2)), layers.Dropout(0.25)]
        else:
            parts += [layers.Conv2D(width, (3, 3), padding="same", use_bias=False)]
            parts += [layers.BatchNormalization(**BATCH_NORM), layers.Activation("relu")]
    head = [layers.Dense(256, activation="relu"), layers.Dropout(0.5)]
    return [*parts, layers.Flatten(), *head, layers.Dense(10, activation=output)]


def basic_block(nn: Any, inputs: int, outputs: int, stride: int) -> Any:
    """He et al. 2015 (arXiv:1512.03385): two 3×3 convolutions beside a shortcut."""

    class BasicBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.downsample = large_models.shortcut(nn, inputs, outputs, stride)

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            y += x if self.downsample is None else self.downsample(x)
            return self.relu(y)

    return BasicBlock()


def resnet18(nn: Any, classes: int, small: bool) -> Any:
    """The 18-layer network; `small`: for 32×32 images, a 3×3 stem and no first pooling."""
    stem = large_models.stem(nn)
    if small:
        stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    blocks, inputs = [], 64
    for stage, width in enumerate((64, 128, 256, 512)):
        blocks += [basic_block(nn, inputs, width, 1 if stage == 0 else 2)]
        blocks += [basic_block(nn, width, width, 1)]
        inputs = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return nn.Sequential(*stem, *blocks, *head)


def inverted_residual(nn: Any, inputs: int, outputs: int, stride: int, expansion: int) -> Any:
    """Sandler et al. 2018 (arXiv:1801.04381): expand, filter each channel, project."""
    width = inputs * expansion

    def part(source: int, target: int, kernel: int, step: int = 1, groups: int = 1) -> list[Any]:
        conv = nn.Conv2d(source, target, kernel, step, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(target)]

    class InvertedResidual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            expand = [*part(inputs, width, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
            filters = [*part(width, width, 3, stride, width), nn.ReLU6(inplace=True)]
            self.conv = nn.Sequential(*expand, *filters, *part(width, outputs, 1))

        def forward(self, x: Any) -> Any:
            return x + self.conv(x) if stride == 1 and inputs == outputs else self.conv(x)

    return InvertedResidual()


def mobilenet_v2(nn: Any) -> Any:
    """MobileNetV2 for 32×32 images: the stem and the second stage keep the size."""
    parts = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)]
    inputs = 32
    # expansion, channels, blocks, stride of the first
    for expansion, outputs, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
        (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for index in range(count):
            step = stride if index == 0 else 1
            parts.append(inverted_residual(nn, inputs, outputs, step, expansion))
            inputs = outputs
    parts += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))


TABLE: dict[str, Model] = {
    model.name: model
    for model in (
        Model("article", (28, 28, 1), 64, article, article_keras),
        Model("article_bn", (28, 28, 1), 64, article_bn, article_bn_keras, random=True),
        Model("vgg_bn", (32, 32, 3), 64, vgg_bn, vgg_bn_keras, random=True),
        Model("resnet18_32", (32, 32, 3), 64, lambda nn: resnet18(nn, 10, True)),
        Model("resnet18", (224, 224, 3), 8, lambda nn: resnet18(nn, 1000, False), classes=1000),
        Model("mobilenet_v2", (32, 32, 3), 64, mobilenet_v2),
        Model("resnet50", (224, 224, 3), 8, large_models.resnet50, classes=1000),
        Model("densenet121", (224, 224, 3), 8, large_models.densenet121, classes=1000),
        Model("unet", (128, 128, 3), 8, large_models.unet),
    )
}


def example_batch(model: Model, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, C) float32 and labels (N,) int64, the same in every process."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, *model.input_shape), dtype=np.float32)
    return x, random.integers(0, model.classes, batch)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of −log softmax(logits)[label]; logits (N, classes), labels (N,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def weight(index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The `index`-th weight with two axes or more, in Keras' layout: He-normal, seeded by index.

    Layouts: (height, width, inputs, outputs) of a convolution, (inputs, outputs) of a dense layer.
    """
    random = np.random.default_rng((1, index))
    scale = math.sqrt(2 / math.prod(shape[:-1]))
    return random.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def keras_weights(weights: list[np.ndarray]) -> list[np.ndarray]:
    """The starting weights of a model in Keras' manner, given those it was built with.

    Vectors (biases, gamma, moving statistics) keep their constants.
    """
    indices = iter(range(len(weights)))
    return [w if w.ndim < 2 else weight(next(indices), w.shape) for w in weights]


def torch_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The same start for a torch model, given the names and shapes of its parameters.

    A dense layer behind a Flatten sees its inputs as (C, H, W) here, as (H, W, C) in Keras.
    """
    start: dict[str, np.ndarray] = {}
    indices, channels = iter(range(len(shapes))), 0
    for name, shape in shapes.items():
        if len(shape) == 4:
            outputs, inputs, height, width = shape
            keras_form = weight(next(indices), (height, width, inputs, outputs))
            start[name] = keras_form.transpose(3, 2, 0, 1)
        elif len(shape) == 2:
            outputs, inputs = shape
            keras_form = weight(next(indices), (inputs, outputs))
            by_pixel = keras_form.reshape(inputs // channels, channels, outputs)
            start[name] = by_pixel.transpose(2, 1, 0).reshape(shape)
        elif name.endswith("bias"):
            start[name] = np.zeros(shape, np.float32)
        channels = shape[0]
    return start
