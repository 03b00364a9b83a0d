"""The picture of a comparison: mean curves with their intervals, and the last value of every run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyconvopt.training.comparison_page import means_of
from pyconvopt.training.statistics import estimate

if TYPE_CHECKING:
    from pyconvopt.training.compare import Comparison

COLOURS = ("#2a6f97", "#d1495b", "#66a182", "#edae49", "#8d6a9f", "#555555")


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write the picture: on the left the number over the epochs, on the right its last values."""
    from pyconvopt.pictures.drawing import finished, new_figure, plain

    figure = new_figure(10, 4, "drawing a comparison")
    curves, last = figure.subplots(1, 2)
    for index, name in enumerate(comparison.runs):
        colour = COLOURS[index % len(COLOURS)]
        means = means_of(comparison, name)
        numbers, heights = list(means), [each.mean for each in means.values()]
        curves.plot(numbers, heights, "o-", color=colour, label=name, ms=4)
        low = [each.mean - each.half_width for each in means.values()]
        high = [each.mean + each.half_width for each in means.values()]
        curves.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
        values = [comparison.score(run) for run in comparison.finished(name).values()]
        if not values:
            continue
        last.plot([index] * len(values), values, "o", color=colour, alpha=0.5)
        mean = estimate(values, comparison.level)
        last.errorbar(
            [index + 0.15], [mean.mean], [mean.half_width], fmt="_", color=colour, capsize=4
        )
    if comparison.target is not None:
        curves.axhline(comparison.target, color="#888888", linestyle=":", label="target")
    last.set_xticks(range(len(comparison.runs)), list(comparison.runs), rotation=20)
    last.set_title(f"last epoch, {comparison.level:.0%} intervals")
    curves.set(xlabel="epoch", title=comparison.monitor.replace("_", " "))
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False)
    for axes in (curves, last):
        plain(axes)
    finished(figure, path)
