"""Networks whose answers, filters and maps are known beforehand."""

from __future__ import annotations

import torch
from torch import nn

from pyconvopt import layers, models


class Levels(nn.Module):
    """Says class k with the logits that stand in the image's first row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0, :3]


def levels_images(*logits: tuple[float, float, float]) -> torch.Tensor:
    """Grey 4×4 images, one for each row of logits."""
    images = torch.zeros(len(logits), 1, 4, 4)
    images[:, 0, 0, :3] = torch.tensor(logits)
    return images


def small(channels: int = 1) -> models.Sequential:
    model = models.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, channels)),
            layers.MaxPooling2D(),
            layers.Conv2D(20, (1, 2)),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def torch_small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3)
    )
