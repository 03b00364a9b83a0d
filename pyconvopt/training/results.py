"""Raw results of many runs in one CSV file: a line for each number of each epoch of each run.

A run's lines are appended at once when it ends, and each says how many there are: a run of which some
are missing (the program was killed in the middle) is taken out when the file is read again. So a file
holds finished runs only, and a comparison that is started again does the others.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pyconvopt.files import naming, write_whole

COLUMNS = ["name", "fingerprint", "seed", "lines", "epoch", "seconds", "number", "value"]


@dataclass
class RunRecord:
    """A finished run: `history` as `History.history`, `seconds` of each epoch."""

    name: str
    fingerprint: str
    seed: int
    seconds: list[float]
    history: dict[str, list[float]] = field(default_factory=dict)

    def lines(self) -> list[list[object]]:
        """The run as lines of the file; a number that some epochs lack belongs to the last ones."""
        rows = [
            (epoch, self.seconds[epoch], number, value)
            for number, values in self.history.items()
            for epoch, value in enumerate(values, len(self.seconds) - len(values))
        ]
        head = [self.name, self.fingerprint, self.seed, len(rows)]
        return [[*head, *row] for row in rows]


def as_csv(lines: Iterable[Iterable[object]]) -> str:
    """Lines as CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


class ResultsFile:
    """The finished runs of a file, by name and seed.

    Errors: ValueError for a file of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.runs: dict[tuple[str, int], RunRecord] = {}
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8")
        # What stands behind the last line's end is a line cut short: its number may be, too.
        rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        if rows and rows[0] != COLUMNS:
            raise ValueError(
                f"{self.path} is no file of results: its columns are {', '.join(rows[0])}, wanted "
                f"{', '.join(COLUMNS)}"
            )
        self.read(rows[1:])
        if text != self.text():
            write_whole(self.path, self.text())

    def read(self, rows: list[list[str]]) -> None:
        """Take in the runs that are complete."""
        found: dict[tuple[str, int], list[list[str]]] = {}
        for row in rows:
            if len(row) == len(COLUMNS) and row[2].isdigit():
                found.setdefault((row[0], int(row[2])), []).append(row)
        for (name, seed), lines in found.items():
            if not all(line[3] == str(len(lines)) for line in lines):
                continue
            seconds = {int(line[4]): float(line[5]) for line in lines}
            record = RunRecord(name, lines[0][1], seed, [seconds[key] for key in sorted(seconds)])
            for line in lines:
                record.history.setdefault(line[6], []).append(float(line[7]))
            self.runs[name, seed] = record

    def text(self) -> str:
        """The file as it should be."""
        return as_csv([COLUMNS, *(line for run in self.runs.values() for line in run.lines())])

    def add(self, run: RunRecord) -> None:
        """Append a finished run, and bring it to disk."""
        self.runs[run.name, run.seed] = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), open(self.path, "a", encoding="utf-8", newline="") as file:
            if file.tell() == 0:
                file.write(as_csv([COLUMNS]))
            file.write(as_csv(run.lines()))
            file.flush()
            os.fsync(file.fileno())
