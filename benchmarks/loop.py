"""What `fit` adds to the bare training step, and what an augmented epoch costs without training.

The bare step is forward, loss, backward and optimiser on a batch that lies ready. `fit` also shuffles
and gathers, counts loss and accuracy, looks whether the loss is finite and calls its callbacks. The two
take turns within one `fit`, ten steps each, as a machine's clock may change from one second to the next.
All time between the bare steps counts, that between epochs included. The augmented epoch is what an
`ArrayLoader` gives to a loop that does nothing with it, of bytes in memory.

python -m benchmarks.loop --models article article_bn --rounds 25 --json loop.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import benchmark, machine, models, report
from benchmarks.harness import Spread
from benchmarks.peers import pyconvopt_
from pyconvopt.data import augment
from pyconvopt.data.loader import ArrayLoader
from pyconvopt.training import Callback

OPTIMIZERS = ("sgd", "adam")
TURN = 10  # steps of `fit`, then as many bare ones
# What recipes do to Fashion-MNIST, lightest first; the last is what `best` does.
AUGMENTATIONS: dict[str, Callable[[], list[Any]]] = {
    "flip": lambda: [augment.AlternatingFlip()],
    "flip, crop": lambda: [augment.AlternatingFlip(), augment.RandomCrop(padding=2)],
    "flip, crop, erasing": lambda: [
        augment.AlternatingFlip(),
        augment.RandomCrop(padding=2),
        augment.RandomErasing(p=0.3),
    ],
}


def seconds(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def overhead(fit: Sequence[float], bare: Sequence[float]) -> Spread:
    """What `fit` adds, as a share of the bare step, round by round.

    >>> overhead([1.5, 2.5], [1.0, 2.0])
    Spread(median=0.375, low=0.25, high=0.5)
    """
    return Spread.of([own / other - 1 for own, other in zip(fit, bare, strict=True)])


def bare_step(model: Any, x: Tensor, y: Tensor) -> Callable[[], None]:
    """The step as a loop by hand has it, with the model's optimiser and loss."""
    trainer = model.trainer()
    optimizer, loss, logits = trainer.optimizer, trainer.loss, trainer.takes_logits

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(x, logits=True) if logits else model(x), y, logits).backward()
        optimizer.step()

    return step


class Turns(Callback):
    """After every few steps of a `fit` as many bare ones; what a step of either took, epoch by epoch.

    The first epoch, in which everything is still made, is not counted.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.batch = (x, y)
        self.fit: list[float] = []
        self.bare: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.bare_step = bare_step(self.model, *self.batch)
        self.begin_epoch()
        self.since = time.perf_counter()

    def begin_epoch(self) -> None:
        self.steps, self.fit_seconds, self.bare_seconds = 0, 0.0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.steps % TURN == 0:
            self.fit_seconds += time.perf_counter() - self.since
            self.bare_seconds += seconds(self.bare_steps)
            self.since = time.perf_counter()

    def bare_steps(self) -> None:
        for _ in range(TURN):
            self.bare_step()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch > 0:
            self.fit.append(self.fit_seconds / self.steps)
            self.bare.append(self.bare_seconds / self.steps)
        self.begin_epoch()


def loop(
    model: models.Model, optimizer: str, batch: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Seconds a step of `fit` and of the bare step, epoch by epoch."""
    module = pyconvopt_.build(model, "softmax")
    module.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps * batch, *model.input_shape), dtype=np.float32)
    y = rng.integers(0, model.classes, len(x))
    turns = Turns(torch.from_numpy(x[:batch]), torch.from_numpy(y[:batch]))
    module.fit(x, y, epochs=rounds + 1, batch_size=batch, verbose=0, callbacks=[turns])
    return {"model": model.name, "optimizer": optimizer, "fit": turns.fit, "bare": turns.bare}


def augmented_epoch(transforms: list[Any], samples: int, batch: int, rounds: int) -> list[float]:
    """Seconds of an epoch of 28×28 images, by rounds."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (samples, 28, 28, 1), dtype=np.uint8)
    loader = ArrayLoader(
        x, rng.integers(0, 10, samples), batch, shuffle=True, seed=0, augment=transforms
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return [seconds(epoch) for _ in range(rounds + 1)][1:]


def table(result: dict[str, Any]) -> str:
    """Medians, and the spread of what is paired."""
    lines = [
        f"the training loop beside the bare step, batch {result['batch']}, {result['rounds']} rounds",
        report.machine_line(result),
        "",
        f"{'model':<14}{'optimiser':<11}{'bare ms':>9}{'fit ms':>9}{'overhead':>10}",
    ]
    for run in result["loops"]:
        bare, fit = (1e3 * statistics.median(run[name]) for name in ("bare", "fit"))
        more = overhead(run["fit"], run["bare"])
        lines.append(
            f"{run['model']:<14}{run['optimizer']:<11}{bare:>9.2f}{fit:>9.2f}{more.median:>10.1%}"
            f" ({more.low:.1%} to {more.high:.1%})"
        )
    lines += ["", f"{result['samples']} augmented images from memory, seconds an epoch"]
    for name, times in result["epochs"].items():
        spread = Spread.of(times)
        lines.append(f"{name:<25}{spread.median:>9.2f} ({spread.low:.2f} to {spread.high:.2f})")
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["article", "article_bn"], metavar="MODEL",
        help="default: article article_bn")  # fmt: skip
    add("--batch", type=int, default=64, help="images a step; default 64")
    add("--steps", type=int, default=100, help="of an epoch; default 100")
    add("--samples", type=int, default=60000, help="images of the augmented epoch; default 60000")
    add("--rounds", type=int, default=25, help="default 25")
    add("--threads", type=int, help="default: all cores")
    add("--json", type=Path, help="write all raw figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit status 0; 2: usage."""
    options = parsed(arguments)
    try:
        chosen = [benchmark.find_model(name) for name in options.models]
        benchmark.require_positive(options, ("batch", "steps", "samples", "rounds", "threads"))
        if options.steps % TURN:
            raise ValueError(f"--steps must be a multiple of {TURN}, got {options.steps}")
        report.require_writable(options.json, None)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    here = machine.describe()
    threads = options.threads or here["cores"]
    torch.set_num_threads(threads)
    result = {
        "benchmark": "loop",
        "machine": here,
        "threads": threads,
        "batch": options.batch,
        "rounds": options.rounds,
        "samples": options.samples,
        "loops": [
            loop(model, optimizer, options.batch, options.steps, options.rounds)
            for model in chosen
            for optimizer in OPTIMIZERS
        ],
        "epochs": {
            name: augmented_epoch(make(), options.samples, options.batch, options.rounds)
            for name, make in AUGMENTATIONS.items()
        },
    }
    print(table(result))
    if options.json:
        report.write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
