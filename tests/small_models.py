"""A problem and a model that train in milliseconds, for the tests of everything around them."""

from __future__ import annotations

import numpy as np
import torch

from pyconvopt import layers, models

RATE = 0.05


def points(samples: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane, and on which side of a line they lie."""
    x = np.random.default_rng(seed).normal(size=(samples, 2)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


def dense(*last: layers.Layer, classes: int = 2, **compiled) -> models.Sequential:
    ending = last or (layers.Dense(classes, activation="softmax"),)
    model = models.Sequential([layers.Dense(8, "tanh", input_shape=(2,)), *ending])
    model.compile(
        compiled.get("optimizer", "adam"),
        compiled.get("loss", "sparse_categorical_crossentropy"),
        compiled.get("metrics", ["accuracy"]),
    )
    return model


def sgd(parameters):
    return torch.optim.SGD(parameters, RATE)
