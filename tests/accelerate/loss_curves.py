"""Fifty steps of SGD on this library's kernels and on torch's, from the same weights.

Two runs of torch itself part: with another number of threads sums are taken in another order, and
training multiplies the differences, by leaps where a ReLU opens in one run and stays shut in the
other. So the rule: the loss before the first update is torch's within `FIRST`, relative, and every
later one is nearer to one of torch's runs than `FACTOR` times their spread, or than `CLOSE` of the
first loss. The runs are one with one thread, one with two, and two with weights that were changed
by `ROUNDING`, relative: as much as the rounding of a Winograd convolution, so that the leaps that
such a change brings are among them. The spread at a step is the largest distance between any two of
them so far.

Dropout draws other masks than torch's, so its rates are zero here.

``python -m tests.accelerate.loss_curves [NAME ...]`` shows the table for all models: some minutes.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import sys

import torch
import torch.nn.functional as F
from torch import nn

import pyconvopt as pco
from benchmarks.models import TABLE
from pyconvopt import models

STEPS = 50
FIRST, CLOSE = 1e-5, 1e-3
FACTOR = 3.0
ROUNDING = 1e-6
RATE, MOMENTUM = 0.002, 0.9
BATCH = 8

# Networks of benchmarks.models that take other sizes than their own, at smaller ones.
SIZES = {"resnet18_32": 16, "resnet18": 64, "mobilenet_v2": 16}
# Architectures that can be made smaller than they are.
SMALLER = {
    "resnet_cifar": {"depth": 8},
    "wide_resnet": {"depth": 10, "width": 1},
    "unet": {"width": 8, "depth": 2},
    "densenet121": {"growth": 8},
    "mobilenet_v2": {"width": 0.5},
}


def benchmark_model(name):
    """The measured network of that name, and the shape of its images."""
    height, width, channels = TABLE[name].input_shape
    size = SIZES.get(name)
    return TABLE[name].torch(nn), (channels, size or height, size or width)


def architecture(name, **options):
    """The architecture of that name in torch's own modules, small, without dropout; and a shape."""
    known = inspect.signature(models.ARCHITECTURES[name]).parameters
    without = {key: 0.0 for key in ("dropout", "stochastic_depth") if key in known}
    small = {"small_images": True} if "small_images" in known else {}
    arguments = {**small, **without, **SMALLER.get(name, {}), **options}
    return pco.restore(models.build(name, num_classes=10, **arguments)), (3, 32, 32)


MODELS = {f"benchmarks.{name}": (benchmark_model, name) for name in TABLE}
MODELS |= {f"models.{name}": (architecture, name) for name in models.ARCHITECTURES}


def problem(name):
    """The model, a batch for each of four steps, and labels."""
    torch.manual_seed(0)
    make, short = MODELS[name]
    model, shape = make(short)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = torch.randn(4, BATCH, *shape)
    with torch.no_grad():
        outputs = copy.deepcopy(model)(x[0]).shape
    return model, x, torch.randint(10, (4, BATCH, *outputs[2:])) % outputs[1]


def losses(model, x, labels):
    """The loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[step % len(x)]), labels[step % len(x)])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


def curves(name):
    """Losses on this library's kernels, and of each run of torch."""
    model, x, labels = problem(name)
    threads = torch.get_num_threads()
    theirs = []
    for count, rounding in ((1, 0.0), (2, 0.0), (2, ROUNDING), (2, ROUNDING)):
        torch.set_num_threads(count)
        plain = copy.deepcopy(model)
        with torch.no_grad():
            for p in plain.parameters():
                p.mul_(1 + rounding * torch.randn_like(p))
        theirs.append(losses(plain, x, labels))
    torch.set_num_threads(threads)
    return losses(pco.accelerate(model), x, labels), theirs


def distances(ours, theirs):
    """At each step, in units of the first loss: ours from the nearest run of torch, and the spread."""
    first = theirs[0][0]
    apart = torch.stack([(a - b).abs() for a, b in itertools.combinations(theirs, 2)])
    spread = apart.amax(0).cummax(0).values
    away = torch.stack([(ours - other).abs() for other in theirs]).amin(0)
    return away / first, spread / first


def follows(ours, theirs):
    """Whether the rule holds."""
    away, spread = distances(ours, theirs)
    return bool(away[0] <= FIRST) and bool((away <= (FACTOR * spread).clamp(min=CLOSE)).all())


if __name__ == "__main__":
    for each in sys.argv[1:] or MODELS:
        ours, theirs = curves(each)
        away, spread = distances(ours, theirs)
        ratio = (away / spread.clamp(min=CLOSE / FACTOR)).max()
        print(
            f"{each:32} loss {ours[0]:.3f} to {ours[-1]:.3f}  first {away[0]:.1e}  "
            f"spread {spread[-1]:.1e}  ours at most {ratio:.1f} times as far  "
            f"{'stays with torch' if follows(ours, theirs) else 'LEAVES'}",
            flush=True,
        )
