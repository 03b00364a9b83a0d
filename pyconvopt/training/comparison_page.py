"""A comparison as one HTML page that needs nothing beside it: table, two charts, all raw results.

The charts are SVG within the page, its colours follow the reader's light or dark setting, and there is
no script. Whatever a caller named is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from pyconvopt.training.statistics import Estimate, estimate

if TYPE_CHECKING:
    from pyconvopt.training.compare import Comparison

WIDTH, HEIGHT = 560, 320  # of the chart of curves, in SVG's units
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40  # its margins
ROW, LABELS = 38, 170  # of the chart of intervals: a row's height, the room for names

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1c2126; --faint: #66707a;
  --line: #dfe3e7; --panel: #f6f8f9;
  --c0: #2a6f97; --c1: #c8374a; --c2: #3f8a5f; --c3: #a86f00; --c4: #7d5692; --c5: #5b6268; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15191d; --text: #e4e8eb; --faint: #98a2ab; --line: #333b43; --panel: #1c2228;
    --c0: #6cb4dd; --c1: #f27d8a; --c2: #7fcc9c; --c3: #e5b650; --c4: #c29bd8; --c5: #a9b2ba; } }
body { margin: 0 auto; max-width: 1220px; padding: 28px 24px 48px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 8px; }
p.note { color: var(--faint); margin: 4px 0 20px; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 4px; }
td:first-child { max-width: 22em; overflow: hidden; text-overflow: ellipsis; }
.charts { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 20px; margin: 28px 0; }
figure { flex: 1 1 440px; min-width: 0; margin: 0; padding: 16px; background: var(--panel);
  border-radius: 8px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--faint); } svg text.name { fill: var(--text); }
.grid { stroke: var(--line); } .target { stroke: var(--faint); stroke-dasharray: 3 4; }
.curve { fill: none; stroke: var(--c); stroke-width: 2; } .band { fill: var(--c); opacity: .16; }
.dot { fill: var(--c); } .run { fill: var(--c); opacity: .4; }
.interval { stroke: var(--c); stroke-width: 2.5; stroke-linecap: round; }
.swatch { display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 3px;
  background: var(--c); }
details summary { cursor: pointer; font-weight: 600; margin-bottom: 8px; }
""" + "\n".join(f".s{index} {{ --c: var(--c{index}); }}" for index in range(6))


class Axis:
    """Values to positions: `low` to `start`, `high` to `end`, and round values to write beside it."""

    def __init__(self, values: Iterable[float], start: float, end: float, margin: float) -> None:
        found = [each for each in values if math.isfinite(each)] or [0.0, 1.0]
        low, high = min(found), max(found)
        room = margin * (high - low) or (0.0 if margin == 0 else abs(high) * 0.05 or 1.0)
        self.low, self.high = low - room, high + room
        self.start, self.end = start, end

    def __call__(self, value: float) -> str:
        """The position of a value, as SVG text."""
        share = 0.5 if self.high == self.low else (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"

    def ticks(self, most: int = 6, whole: bool = False) -> list[float]:
        """Round values within, at most that many.

        >>> Axis([0.83, 0.91], 0, 1, 0.0).ticks()
        [0.84, 0.86, 0.88, 0.9]
        """
        span = self.high - self.low
        if span == 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * each for each in (1, 2, 5, 10, 20) if span / (power * each) <= most - 1)
        step = max(1.0, round(step)) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def page(comparison: Comparison) -> str:
    """The whole page."""
    title = f"{comparison.monitor.replace('_', ' ')} compared"
    head, *rows = comparison.cells()
    runs = sum(map(len, comparison.runs.values()))
    charts = (
        ("Over the epochs", curves(comparison)),
        (f"Last epoch, {comparison.level:.0%} intervals", intervals(comparison)),
    )
    figures = "".join(f"<figure><h2>{name}</h2>{svg}</figure>" for name, svg in charts)
    raw = raw_results(comparison)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="note">{len(comparison.runs)} entries, {runs} runs. '
        f"{escape(comparison.explanation)}</p>\n"
        f'<div class="wide">{table(head, rows, swatches=True)}</div>\n'
        f'<div class="charts">{figures}</div>\n'
        f"<details><summary>Raw results: {len(raw) - 1} epochs</summary>\n"
        f'<div class="wide">{table(raw[0], raw[1:])}</div></details>\n</body>\n</html>\n'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], swatches: bool = False) -> str:
    """An HTML table; with `swatches` each row begins with its entry's colour."""
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for index, row in enumerate(rows):
        swatch = f'<i class="swatch s{index % 6}"></i>' if swatches else ""
        first = f'<td title="{escape(row[0])}">{swatch}{escape(row[0])}</td>'
        lines.append(f"<tr>{first}{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>")
    return f"<table>{''.join(lines)}</table>"


def means_of(comparison: Comparison, name: str) -> dict[int, Estimate]:
    """The monitored number of an entry with its interval, in the epochs all its runs have it."""
    values = [run.values(comparison.monitor) for run in comparison.finished(name).values()]
    epochs = (
        [epoch for epoch in values[0] if all(epoch in each for each in values)] if values else []
    )
    return {
        epoch + 1: estimate([each[epoch] for each in values], comparison.level) for epoch in epochs
    }


def curves(comparison: Comparison) -> str:
    """The mean curves as SVG, with their intervals as bands."""
    means = {name: means_of(comparison, name) for name in comparison.runs}
    seen = [edge for each in means.values() for mean in each.values() for edge in ends(mean)]
    last = max((epoch for each in means.values() for epoch in each), default=1)
    across = Axis([1, last], LEFT, WIDTH - RIGHT, 0.0)
    seen += [] if comparison.target is None else [comparison.target]
    up = Axis(seen, HEIGHT - BOTTOM, TOP, 0.05)
    parts = []
    for value in up.ticks(9):
        y = up(value)
        parts.append(line("grid", LEFT, y, WIDTH - RIGHT, y))
        parts.append(text(LEFT - 8, y, f"{value:g}", "end", dy=".35em"))
    for value in across.ticks(10, whole=True):
        parts.append(text(across(value), HEIGHT - BOTTOM + 18, f"{value:g}"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "epoch"))
    if comparison.target is not None:
        y = up(comparison.target)
        parts.append(line("target", LEFT, y, WIDTH - RIGHT, y))
        parts.append(text(LEFT + 4, float(y) - 5, "target", "start"))
    for index, each in enumerate(means.values()):
        places = [(across(epoch), up(mean.mean)) for epoch, mean in each.items()]
        points = [f"{x},{y}" for x, y in places]
        edges = [(across(epoch), *map(up, ends(mean))) for epoch, mean in each.items()]
        band = [f"{x},{y}" for x, y, _ in edges] + [f"{x},{y}" for x, _, y in reversed(edges)]
        dots = "".join(circle("dot", x, y, 3) for x, y in places)
        parts.append(
            f'<g class="s{index % 6}"><polygon class="band" points="{" ".join(band)}"/>'
            f'<polyline class="curve" points="{" ".join(points)}"/>{dots}</g>'
        )
    return svg(HEIGHT, parts, f"{comparison.monitor} over the epochs")


def intervals(comparison: Comparison) -> str:
    """Every run's last value and the mean's interval, a row for each entry."""
    height = ROW * len(comparison.runs) + BOTTOM
    rows = {row.name: row.score for row in comparison.rows}
    scores = {
        name: [comparison.score(run) for run in comparison.finished(name).values()]
        for name in comparison.runs
    }
    seen = [edge for mean in rows.values() for edge in ends(mean)]
    seen += [value for each in scores.values() for value in each]
    across = Axis(seen, LABELS, WIDTH - RIGHT, 0.04)
    parts = []
    for value in across.ticks(5):
        x = across(value)
        parts.append(line("grid", x, 0, x, height - BOTTOM))
        parts.append(text(x, height - BOTTOM + 18, f"{value:g}"))
    parts.append(text((LABELS + WIDTH - RIGHT) / 2, height - 4, comparison.monitor))
    for index, (name, mean) in enumerate(rows.items()):
        y = ROW * (index + 0.5)
        parts.append(text(0, y, shortened(name), "start", "name", ".35em"))
        if not scores[name]:
            parts.append(text(LABELS, y, "failed", "start", dy=".35em"))
            continue
        low, high = map(across, ends(mean))
        runs = "".join(circle("run", across(value), y + 8, 3) for value in scores[name])
        parts.append(
            f'<g class="s{index % 6}"><title>{escape(name)}</title>'
            f"{line('interval', low, y - 3, high, y - 3)}"
            f"{circle('dot', across(mean.mean), y - 3, 5)}{runs}</g>"
        )
    return svg(height, parts, f"{comparison.monitor} of the last epoch")


def raw_results(comparison: Comparison) -> list[list[str]]:
    """A heading, then a line for every epoch of every run; a number an epoch lacks is left empty."""
    records = [record for runs in comparison.runs.values() for record in runs.values()]
    numbers = list(dict.fromkeys(number for record in records for number in record.history))
    lines = [["name", "seed", "epoch", "seconds", *numbers]]
    for record in records:
        values = [record.values(number) for number in numbers]
        for epoch, seconds in enumerate(record.seconds):
            cells = [record.name, str(record.seed), str(epoch + 1), f"{seconds:.2f}"]
            cells += [f"{each[epoch]:.5g}" if epoch in each else "" for each in values]
            lines.append(cells)
    return lines


def ends(mean: Estimate) -> tuple[float, float]:
    """An interval's ends; of a single run, whose interval is not known, the value."""
    half = 0.0 if math.isnan(mean.half_width) else mean.half_width
    return mean.mean - half, mean.mean + half


def shortened(name: str, most: int = 24) -> str:
    """A name that fits beside the chart."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def svg(height: float, parts: Sequence[str], label: str) -> str:
    """The parts as one picture."""
    box = f'viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def line(kind: str, x1: object, y1: object, x2: object, y2: object) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def circle(kind: str, x: object, y: object, radius: float) -> str:
    """A filled circle."""
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"/>'


def text(
    x: object, y: object, words: str, anchor: str = "middle", kind: str = "", dy: str = "0"
) -> str:
    """Words at a place."""
    place = f'x="{x}" y="{y}" dy="{dy}" text-anchor="{anchor}" class="{kind}"'
    return f"<text {place}>{escape(words)}</text>"
