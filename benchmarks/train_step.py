"""One training step: zero_grad, forward, cross-entropy, backward, SGD with momentum.

python -m benchmarks.train_step --models article article_bn --json step.json --png step.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.benchmark import Benchmark

BENCHMARK = Benchmark(
    work="train_step",
    title="one training step",
    unit="ms",
    per_second=1e3,
    check="loss",
    check_first=True,
    rounds=5,
    processes=3,
    seconds=1.0,
    warmup=3,
    at_least=3,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return BENCHMARK.run(BENCHMARK.parser(__doc__ or "").parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
