"""Raw results of many runs in one CSV file: a line for each number of each epoch of each run.

A run's lines are appended at once when it ends, and each says how many there are: a run of which some
are missing (the program was killed in the middle) is taken out when the file is read again. So a file
holds finished runs only, and a comparison that is started again does the others. A run that failed (its
guard stopped it) has the number `failed`, 1, in its last epoch.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pyconvopt.files import naming, write_whole
from pyconvopt.training.history import History

FAILED = "failed"
COLUMNS = ["name", "fingerprint", "seed", "lines", "epoch", "seconds", "number", "value"]


@dataclass
class RunRecord:
    """A finished run: `history` as `History.history`, `seconds` of each epoch.

    `epochs`: those of each number's values, counted from 0; of one that is not there, the last ones.
    """

    name: str
    fingerprint: str
    seed: int
    seconds: list[float]
    history: dict[str, list[float]] = field(default_factory=dict)
    epochs: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, fingerprint: str, seed: int, history: History, failed: bool
    ) -> RunRecord:
        """The record of a run that has just ended."""
        numbers = {number: list(map(float, each)) for number, each in history.history.items()}
        record = cls(name, fingerprint, seed, list(history.seconds), numbers)
        validated = [history.epoch.index(epoch) for epoch in history.validated]
        for number, values in numbers.items():
            if len(values) == len(validated) < len(record.seconds):
                record.epochs[number] = validated
        if failed and record.seconds:
            numbers[FAILED] = [1.0]
        return record

    @property
    def failed(self) -> bool:
        """Whether its guard stopped it, or a loss was no number at the end."""
        losses = [self.history[each] for each in ("loss", "val_loss") if self.history.get(each)]
        return FAILED in self.history or not all(math.isfinite(each[-1]) for each in losses)

    def values(self, number: str) -> dict[int, float]:
        """A number's values by their epochs."""
        values = self.history.get(number, [])
        last = range(len(self.seconds) - len(values), len(self.seconds))
        return dict(zip(self.epochs.get(number, last), values, strict=True))

    def lines(self) -> list[list[object]]:
        """The run as lines of the file."""
        rows = [
            (epoch, self.seconds[epoch], number, value)
            for number in self.history
            for epoch, value in self.values(number).items()
        ]
        head = [self.name, self.fingerprint, self.seed, len(rows)]
        return [[*head, *row] for row in rows]


def as_csv(lines: Iterable[Iterable[object]]) -> str:
    """Lines as CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def blocks(lines: list[tuple[int, list[str]]]) -> list[list[tuple[int, list[str]]]]:
    """The lines of a name and seed, run by run: two programs may have written the same one.

    A run says each number of an epoch once, and how many lines it has in every line.
    """
    found: list[list[tuple[int, list[str]]]] = []
    seen: set[tuple[str, str]] = set()
    for place, row in lines:
        said = (row[4], row[6])
        if not found or said in seen or row[1:4] != found[-1][0][1][1:4]:
            found.append([])
            seen = set()
        seen.add(said)
        found[-1].append((place, row))
    return found


def is_complete(lines: list[tuple[int, list[str]]]) -> bool:
    """Whether a run's lines are as many as they say."""
    return all(row[3] == str(len(lines)) for _, row in lines)


class ResultsFile:
    """The finished runs of a file, by name and seed.

    Errors: ValueError for a file of another kind, or one with a damaged line, which it names.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.runs: dict[tuple[str, int], RunRecord] = {}
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise self.damaged(line, "it is not UTF-8") from None
        # What stands behind the last line's end is a line cut short: its number may be, too.
        reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
        try:
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise self.damaged(reader.line_num, str(error)) from None
        if rows and rows[0][1] != COLUMNS:
            raise ValueError(
                f"{self.path} is no file of results: its columns are {', '.join(rows[0][1])}, wanted "
                f"{', '.join(COLUMNS)}"
            )
        self.read(rows[1:])
        if text != self.text():
            write_whole(self.path, self.text())

    def damaged(self, line: int, what: str) -> ValueError:
        """The error for a line that cannot be read."""
        return ValueError(
            f"{self.path}, line {line} is damaged: {what}; delete the lines of its run, which is then "
            "run again"
        )

    def read(self, rows: list[tuple[int, list[str]]]) -> None:
        """Take in the runs that are complete, one that is there twice once; of each row its line."""
        found: dict[tuple[str, int], list[tuple[int, list[str]]]] = {}
        for place, row in rows:
            if len(row) == len(COLUMNS) and row[2].isdecimal():
                found.setdefault((row[0], int(row[2])), []).append((place, row))
        for (name, seed), every in found.items():
            lines = next((each for each in blocks(every) if is_complete(each)), None)
            if lines is None:
                continue
            seconds: dict[int, float] = {}
            record = RunRecord(name, lines[0][1][1], seed, [])
            for place, (*_, epoch, spent, number, value) in lines:
                try:
                    seconds[int(epoch)] = float(spent)
                    record.history.setdefault(number, []).append(float(value))
                    record.epochs.setdefault(number, []).append(int(epoch))
                except ValueError as error:
                    raise self.damaged(place, str(error)) from None
            places = {epoch: place for place, epoch in enumerate(sorted(seconds))}
            record.seconds = [seconds[epoch] for epoch in places]
            for epochs in record.epochs.values():
                epochs[:] = [places[epoch] for epoch in epochs]
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
