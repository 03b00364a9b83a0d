"""How many lines of the CUDA kernels run in the emulation: python -m tests.cuda_emulation.coverage"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict

from tests.cuda_emulation.library import HERE, KERNELS, built

FILES = ["batch_norm", "conv", "conv_moments", "dropout", "optimizer", "pooling"]
# These count accesses, which nobody notes here.
COUNTING = "not moves_the_bytes and not every_byte_once and not reads_the_map_once"


def run_tests(counters: pathlib.Path) -> bool:
    """Runs the kernels' tests; the counters of every object go to a file below the folder."""
    variables = {"PYCONVOPT_EMULATION": "covered", "GCOV_PREFIX": str(counters)}
    tests = [str(HERE / f"test_{name}.py") for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-k", COUNTING, *tests]
    return subprocess.run(command, env={**os.environ, **variables}).returncode == 0


def lines_run(counters: pathlib.Path, objects: pathlib.Path) -> dict[str, dict[int, bool]]:
    """Of each source of a kernel: whether a line ran, in any of the objects that have it."""
    found: dict[str, dict[int, bool]] = defaultdict(dict)
    for data in counters.rglob("*.gcda"):
        shutil.copy(objects / f"{data.stem}.gcno", data.parent)
        command = ["gcov", "--json-format", "--stdout", data.name]
        told = subprocess.run(command, cwd=data.parent, capture_output=True, text=True, check=True)
        for file in json.loads(told.stdout)["files"]:
            path = pathlib.Path(file["file"])
            if path.parent == KERNELS:
                seen = found[path.name]
                for line in file["lines"]:
                    number = line["line_number"]
                    seen[number] = seen.get(number, False) or line["count"] > 0
    return found


def main() -> int:
    """Prints a line a file, those that did not run, and the share of all."""
    objects = built("covered", tuple(sorted(KERNELS.glob("*.cu")))).parent
    with tempfile.TemporaryDirectory() as folder:
        passed = run_tests(pathlib.Path(folder))
        found = lines_run(pathlib.Path(folder), objects)
    for name, lines in sorted(found.items()):
        missed = ", ".join(str(n) for n, ran in sorted(lines.items()) if not ran)
        print(f"{name:24} {sum(lines.values()):4} of {len(lines):4}  {missed}")
    ran, all_ = (sum(map(f, found.values())) for f in (lambda lines: sum(lines.values()), len))
    print(f"{ran} of {all_} lines, {ran / all_:.1%}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
