"""Models in evaluation mode, without gradients: this project, torch, and the inference runtimes.

The runtimes read ONNX files that torch exports, which needs onnx and onnxscript here; each peer's
own package may be installed elsewhere, see --python.

python -m benchmarks.inference --models article --batch 1 64 --python openvino=~/peers/bin/python
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import onnx_files, peers
from benchmarks.benchmark import Benchmark
from benchmarks.models import Model

BENCHMARK = Benchmark(
    work="inference",
    title="inference",
    unit="ms",
    per_second=1e3,
    check="cross-entropy",
    check_first=True,
    rounds=5,
    processes=3,
    seconds=0.3,
    warmup=3,
    at_least=3,
    batches=(1, 8, 64),
)
READS_ONNX = {"onnxruntime", "openvino", "ncnn"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = BENCHMARK.parser(__doc__ or "").parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:

        def file(model: Model, batch: int, chosen: Sequence[peers.Peer]) -> str | None:
            """The ONNX file, where a peer wants one; None, and the reason said, where it cannot be."""
            if not READS_ONNX & {peer.family for peer in chosen}:
                return None
            path = Path(folder) / f"{model.name}-{batch}.onnx"
            try:
                onnx_files.write(model, batch, path)
            except ImportError as error:
                print(f"no ONNX file of {model.name}: {error}", file=sys.stderr)
                return None
            return str(path)

        return BENCHMARK.run(options, file)


if __name__ == "__main__":
    sys.exit(main())
