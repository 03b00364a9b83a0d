"""Whole epochs of the article's program on Fashion-MNIST: batch 64, Adam, `model.fit`.

The peers take turns epoch by epoch; the first epoch holds each library's tracing, as for a user.

python -m benchmarks.fit --epochs 5 --json fit.json --png fit.png
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import images
from benchmarks.benchmark import Benchmark

BENCHMARK = Benchmark(
    work="fit",
    title="one epoch of fit",
    unit="s",
    per_second=1.0,
    check="test accuracy",
    check_first=False,
    rounds=5,
    total=True,
    models=("article",),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = BENCHMARK.parser(__doc__ or "")
    parser.add_argument("--epochs", dest="rounds", type=int, help="another name for --rounds")
    parser.add_argument("--samples", type=int, help="only so many training images")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fashion-mnist.npz"
        try:
            images.store(path, options.samples)
        except (ImportError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return BENCHMARK.run(options, lambda *_: str(path))


if __name__ == "__main__":
    sys.exit(main())
