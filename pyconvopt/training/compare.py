"""Which of several ways to train is better, and is the difference more than chance.

Every entry runs once with each seed: the entries take turns, and who begins rotates, so that a
machine that grows slower slows all alike. The same seed means the same order of the data (and for
like models the same first weights), so differences are taken seed by seed, which removes what the
entries share. The mean of the differences has a 95 % interval by Student's t, and a paired t-test
says how often chance alone would give as large a one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyconvopt.files import write_whole
from pyconvopt.json_text import finite, to_json
from pyconvopt.training.comparison_page import page
from pyconvopt.training.comparison_picture import plot_comparison
from pyconvopt.training.entries import Entry
from pyconvopt.training.monitors import Monitor
from pyconvopt.training.processes import Processes, join
from pyconvopt.training.results import ResultsFile, RunRecord, as_csv
from pyconvopt.training.statistics import Estimate, estimate, paired_t_test


@dataclass(frozen=True)
class Row:
    """What is said of an entry.

    score: of the last epoch. seconds: of the whole run. difference: of the score from the first
    entry's, by seed (None for the first), p: of the paired t-test on it. reached: how many runs came
    to the target (None without one), target_seconds: how long those took to it. failed: how many
    runs failed, which are in none of the other numbers.
    """

    name: str
    score: Estimate
    seconds: Estimate
    difference: Estimate | None
    p: float | None
    reached: int | None
    target_seconds: Estimate | None
    failed: int = 0


class Comparison:
    """The finished runs of a comparison, and what they say.

    `runs[name]` are the `RunRecord`s of an entry by seed; `rows` the summary; `markdown()`,
    `to_csv(path)`, `to_json()`, `plot(path)` and `to_html(path)` write it. Runs that failed, stopped
    by their guard or with a loss that is no number, are counted, and left out of all else.
    """

    def __init__(
        self,
        runs: Mapping[str, Mapping[int, RunRecord]],
        monitor: str = "val_accuracy",
        target: float | None = None,
        level: float = 0.95,
    ) -> None:
        self.runs = runs
        self.monitor = monitor
        self.target = target
        self.level = level

    def finished(self, name: str) -> dict[int, RunRecord]:
        """The runs of an entry that did not fail, by seed."""
        return {
            seed: run
            for seed, run in self.runs[name].items()
            if not run.failed and math.isfinite(self.score(run))
        }

    def score(self, run: RunRecord) -> float:
        """The monitored number after the last epoch."""
        return run.history[self.monitor][-1]

    def seconds_to_target(self, run: RunRecord) -> float | None:
        """The time from the start to the end of the first epoch that reached the target."""
        sign = Monitor(self.monitor, "auto").sign
        for epoch, value in run.values(self.monitor).items():
            if self.target is not None and sign * value >= sign * self.target:
                return math.fsum(run.seconds[: epoch + 1])
        return None

    @property
    def rows(self) -> list[Row]:
        """A row for each entry."""
        names = list(self.runs)
        first = self.finished(names[0])
        rows = []
        for name in names:
            runs = self.finished(name)
            scores = [self.score(run) for run in runs.values()]
            spent = [math.fsum(run.seconds) for run in runs.values()]
            times = [self.seconds_to_target(run) for run in runs.values()]
            reached = [each for each in times if each is not None]
            difference = p = None
            if name != names[0]:
                seeds = [seed for seed in runs if seed in first]
                pair = [[self.score(each[seed]) for seed in seeds] for each in (runs, first)]
                difference = estimate([a - b for a, b in zip(*pair, strict=True)], self.level)
                p = paired_t_test(*pair)
            rows.append(
                Row(
                    name,
                    estimate(scores, self.level),
                    estimate(spent, self.level),
                    difference,
                    p,
                    None if self.target is None else len(reached),
                    None if self.target is None else estimate(reached, self.level),
                    len(self.runs[name]) - len(runs),
                )
            )
        return rows

    @property
    def explanation(self) -> str:
        """What the columns of the summary are, in words."""
        said = (
            f"Means of the last epoch with {self.level:.0%} intervals (Student's t); "
            "differences by seed, p of the two-sided paired t-test."
        )
        failed = any(row.failed for row in self.rows)
        return f"{said} Runs that failed are left out of means and tests." if failed else said

    def cells(self) -> list[list[str]]:
        """The summary as lines of text, the first one the heading."""
        rows = self.rows
        title = ["", "runs", self.monitor, "seconds"]
        if self.target is not None:
            title.append(f"seconds to {self.target:g}")
        title += [f"difference from {rows[0].name}", "p"]
        lines = [title]
        for row in rows:
            runs = f"{row.score.runs} ({row.failed} failed)" if row.failed else str(row.score.runs)
            cells = [row.name, runs, show(row.score), show(row.seconds, 1)]
            if row.target_seconds is not None:
                count = f"{row.reached}/{row.score.runs}"
                reached = f"{show(row.target_seconds, 1)} ({count})" if row.reached else count
                cells.append(reached)
            cells.append("" if row.difference is None else show(row.difference, sign="+"))
            cells.append("" if row.p is None or math.isnan(row.p) else f"{row.p:.3g}")
            lines.append(cells)
        return lines

    def markdown(self) -> str:
        """The summary as a Markdown table, and in words what its columns are."""
        title, *rows = self.cells()
        lines = [title, ["---"] + ["---:"] * (len(title) - 1), *rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return f"{table}\n\n{self.explanation}"

    def table(self) -> list[dict[str, Any]]:
        """The summary as flat dicts."""
        return [
            {
                "name": row.name,
                "runs": row.score.runs,
                "failed": row.failed,
                self.monitor: row.score.mean,
                "half_width": row.score.half_width,
                "seconds": row.seconds.mean,
                "reached": row.reached,
                "target_seconds": row.target_seconds.mean if row.target_seconds else None,
                "difference": row.difference.mean if row.difference else None,
                "difference_half_width": row.difference.half_width if row.difference else None,
                "p": row.p,
            }
            for row in self.rows
        ]

    def to_csv(self, path: str | Path) -> None:
        """Write the summary as CSV; the raw results are in the file of `compare`."""
        rows = self.table()
        lines = [["" if each is None else each for each in finite([*row.values()])] for row in rows]
        write_whole(path, as_csv([list(rows[0]), *lines]))

    def to_json(self) -> str:
        """The summary as JSON; a number that is not known is null."""
        rows = self.table()
        return to_json(
            {"monitor": self.monitor, "target": self.target, "level": self.level, "rows": rows}
        )

    def plot(self, path: str | Path) -> None:
        """Write the picture: mean curves with their intervals, and each run's last value.

        PNG if the ending of its path says nothing else.

        Errors: ImportError naming the extra if matplotlib is missing.
        """
        plot_comparison(self, path)

    def to_html(self, path: str | Path) -> None:
        """Write one page that needs nothing beside it: the summary, charts, and all raw results."""
        write_whole(path, page(self))


def show(value: Estimate, digits: int = 4, sign: str = "") -> str:
    """A mean with its interval; nothing of no values.

    >>> show(Estimate(0.91234, 0.00321, 5)), show(Estimate(2.0, float('nan'), 1), 1, '+')
    ('0.9123 ± 0.0032', '+2.0')
    """
    if not value.runs:
        return ""
    text = f"{value.mean:{sign}.{digits}f}"
    return text if math.isnan(value.half_width) else f"{text} ± {value.half_width:.{digits}f}"


def compare(
    entries: Mapping[str, Any],
    seeds: int | Sequence[int] = 3,
    data: Any = None,
    *,
    validation: Any = None,
    monitor: str = "val_accuracy",
    target: float | None = None,
    results: str | Path | None = None,
    level: float = 0.95,
    verbose: int = 1,
    **fit: Any,
) -> Comparison:
    """Run every entry with every seed and compare them.

    Args:
        entries: names to ways of training. A `Recipe` (or its name or path): the recipe, with
            each seed, the test images as validation. A function of the seed: it returns a
            `History`, or a `Trainer` or compiled `Sequential` that is then fitted on `data` with
            `validation`, the seed as `seed` and the options of `fit`. The first entry is the one
            the others are compared with.
        seeds: how many (0, 1, 2 …), or which ones.
        monitor: what is compared, of the last epoch.
        target: a value of it; then the time to reach it is told (validation included).
        results: a CSV file for the raw results; runs that stand there are not run again.
        level: of the intervals.
        verbose: 1 prints a line a run.

    Torch's generator is set to the seed before each run. Under `torchrun` each run is one of all
    processes (see `processes`); the first writes the file and prints, all return the comparison.

    Errors: ValueError for a number the runs do not give, or results in the file that belong to
    another recipe of the same name.

    >>> import torch
    >>> x = torch.randn(64, 3)
    >>> def linear(optimizer):
    ...     from pyconvopt.training import Trainer
    ...     return lambda seed: Trainer(torch.nn.Linear(3, 2), optimizer, metrics=['accuracy'])
    >>> data = (x, (x[:, 0] > 0).long())
    >>> result = compare({'sgd': linear('sgd'), 'adam': linear('adam')}, 2, data,
    ...                  validation=data, verbose=0)
    >>> [row.name for row in result.rows], result.rows[1].difference.runs
    (['sgd', 'adam'], 2)
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or not entries:
        raise ValueError("compare needs at least one entry and one seed")
    if len(set(chosen)) != len(chosen) or any(seed < 0 for seed in chosen):
        raise ValueError(f"seeds must be different whole numbers >= 0, got {chosen}")
    ready = {name: Entry(name, spec, data, validation, fit) for name, spec in entries.items()}
    processes = join()
    kept = None if results is None else processes.from_first(lambda: ResultsFile(results))
    runs: dict[str, dict[int, RunRecord]] = {name: {} for name in ready}
    for turn, seed in enumerate(chosen):
        names = list(ready)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            record = None if kept is None else kept.runs.get((name, seed))
            if record is None:
                record = finish(ready[name].run(seed), monitor, kept, processes)
                if verbose and processes.is_first:
                    spent = math.fsum(record.seconds)
                    value = record.history[monitor][-1]
                    score = "failed" if record.failed else f"{monitor} {value:.4f}"
                    print(f"{name}, seed {seed}: {score}, {spent:.1f} s", flush=True)
            elif record.fingerprint != ready[name].fingerprint:
                raise ValueError(
                    f"{results} holds runs of another recipe called {name!r}: give it another name, "
                    "or choose another file"
                )
            require_number(record, monitor)
            runs[name][seed] = record
    return Comparison(runs, monitor, target, level)


def finish(
    record: RunRecord, monitor: str, kept: ResultsFile | None, processes: Processes
) -> RunRecord:
    """A run that has ended: the first process' record of it, which that one keeps."""

    def of_first() -> RunRecord:
        require_number(record, monitor)
        if kept is not None:
            kept.add(record)
        return record

    return processes.from_first(of_first)


def require_number(record: RunRecord, monitor: str) -> None:
    """Refuse a run that does not give the number compared."""
    if not record.history.get(monitor):
        raise ValueError(
            f"{record.name} gives no {monitor!r}, only {', '.join(record.history)}: give validation "
            "data, or choose one of these as monitor"
        )
