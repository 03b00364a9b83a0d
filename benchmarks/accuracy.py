"""Whether a network learns as well here as in torch: test accuracy on Fashion-MNIST, seed by seed.

One torch program trains the model as it is, accelerated, and accelerated without Winograd. For a seed all
three start from the same weights and see the same batches, so that accuracies are compared in pairs: the
mean difference from torch's should lie within its 95 % confidence interval of 0.

python -m benchmarks.accuracy --models article --seeds 5 --epochs 5 --json accuracy.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pyconvopt as pco
from benchmarks import benchmark, images, machine, models, report
from pyconvopt.training.statistics import estimate, paired_t_test

LEARNING_RATE = 1e-3  # Adam's, as in the article's program


class Images(NamedTuple):
    """N, C, H, W images in 0 … 1 and their labels."""

    x: Tensor
    y: Tensor


MANNERS: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[], Any]]] = {
    "torch": (lambda model: model, nullcontext),
    "accelerate": (pco.accelerate, nullcontext),
    "accelerate, no Winograd": (pco.accelerate, lambda: pco.settings(winograd=False)),
}
"""What is done to the model, and the settings that it is trained and tested under."""


def batches(data: Images, size: int) -> Iterator[Images]:
    """The images in an order drawn from torch's generator."""
    for rows in torch.randperm(len(data.x)).split(size):
        yield Images(data.x[rows], data.y[rows])


def trained(
    model: nn.Module, train: Images, test: Images, *, epochs: int, batch: int, seed: int
) -> float:
    """The test accuracy after so many epochs of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    torch.manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for x, y in batches(train, batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(test.x.split(1000), test.y.split(1000), strict=True)
        )
    return right / len(test.x)


def measure(
    chosen: Sequence[models.Model],
    train: Images,
    test: Images,
    *,
    seeds: int,
    epochs: int,
    batch: int,
) -> Iterator[dict[str, Any]]:
    """A run of each model, seed and manner, in that order."""
    for model in chosen:
        for seed in range(seeds):
            for manner, (prepare, context) in MANNERS.items():
                benchmark.progress(f"{model.name}, seed {seed}: {manner}")
                torch.manual_seed(seed)
                module = prepare(model.torch(nn))
                with context():
                    accuracy = trained(module, train, test, epochs=epochs, batch=batch, seed=seed)
                yield {"model": model.name, "manner": manner, "seed": seed, "accuracy": accuracy}
    benchmark.progress("")


def table(result: dict[str, Any]) -> str:
    """Mean accuracies and their differences from torch's, each with its 95 % interval."""
    lines = [
        f"test accuracy after {result['epochs']} epochs, batch {result['batch']}, {result['seeds']} "
        "seeds; 95 % intervals",
        f"{result['machine']['processor']}, {result['version']}",
        "",
        f"{'model':<12}{'manner':<26}{'accuracy':<20}{'beside torch':<24}{'p':>6}",
    ]
    for name in dict.fromkeys(run["model"] for run in result["runs"]):
        of = {
            manner: [r["accuracy"] for r in result["runs"] if (r["model"], r["manner"]) == (name, manner)]
            for manner in MANNERS
        }  # fmt: skip
        for manner, found in of.items():
            mean, width, _ = estimate(found)
            line = f"{name:<12}{manner:<26}{f'{mean:.4f} ± {width:.4f}':<20}"
            if manner != "torch":
                pairs = list(zip(found, of["torch"], strict=True))
                apart, around, _ = estimate([own - other for own, other in pairs])
                line += f"{f'{apart:+.4f} ± {around:.4f}':<24}"
                line += f"{paired_t_test(found, of['torch']):>6.2f}"
            lines.append(line.rstrip())
    return "\n".join(lines)


def fashion_mnist_tensors(samples: int | None) -> tuple[Images, Images]:
    """Fashion-MNIST's training images, or the first so many, and its test images."""
    from pyconvopt.data import fashion_mnist

    (x, y), (x_test, y_test) = fashion_mnist()

    def part(x: Any, y: Any, most: int | None) -> Images:
        pixels = torch.from_numpy(images.scaled(x[:most]))
        return Images(pixels.reshape(-1, 1, 28, 28), torch.from_numpy(y[:most]).long())

    return part(x, y, samples), part(x_test, y_test, None)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["article"], metavar="MODEL", help="default: article")
    add("--seeds", type=int, default=5, help="default 5")
    add("--epochs", type=int, default=5, help="default 5")
    add("--batch", type=int, default=64, help="images a step; default 64")
    add("--samples", type=int, help="only so many training images")
    add("--threads", type=int, help="default: all cores")
    add("--json", type=Path, help="write all accuracies to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print, write. Exit status 0; 1: no images; 2: usage."""
    options = parsed(arguments)
    try:
        chosen = [benchmark.find_model(name) for name in options.models]
        for model in chosen:
            if model.input_shape != (28, 28, 1):
                raise ValueError(f"{model.name} takes images of {model.input_shape}, not 28×28×1")
        benchmark.require_positive(options, ("seeds", "epochs", "batch", "samples", "threads"))
        report.require_writable(options.json, None)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        train, test = fashion_mnist_tensors(options.samples)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    here = machine.describe()
    torch.set_num_threads(options.threads or here["cores"])
    facts = {name: getattr(options, name) for name in ("seeds", "epochs", "batch")}
    result: dict[str, Any] = {"benchmark": "accuracy", "machine": here, **facts, "runs": []}
    result["version"] = f"{pco.settings.current()['isa']}, torch {torch.__version__}"
    for run in measure(chosen, train, test, **facts):
        result["runs"].append(run)
        if options.json:  # after each run, so that one that is broken off keeps what it found
            report.write_json(result, options.json)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
