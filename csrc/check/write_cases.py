"""Writes the problems of tests/cases.py as C++ initialisers: write_cases.py CASES OUTPUT."""

from __future__ import annotations

import pathlib
import runpy
import sys


def main() -> None:
    """Write one line a case."""
    source, output = sys.argv[1:]
    # dataclasses look their module up, so the table runs under the name of one that exists.
    table = runpy.run_path(source, run_name="__main__")
    lines = []
    for case in table["CONV_CASES"]:
        numbers = [case.batch, case.channels, case.height, case.width, case.out_channels]
        numbers += [*case.kernel, *case.stride, *case.padding, *case.dilation, case.groups]
        lines.append(f'CONV_CASE("{case.name}", {", ".join(map(str, numbers))})')
    for batch, channels, height, width in table["MAP_SHAPES"]:
        lines.append(f"MAP_CASE({batch}, {height}, {width}, {channels})")
    pathlib.Path(output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
