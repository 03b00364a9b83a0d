"""The figures of `benchmarks.layers` as a table, geometric means, and charts.

All read the same dict, which the JSON file holds whole:
python -m benchmarks.layer_report FILE.json [--png FILE.png]
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ceilings, report, tensors
from benchmarks.harness import Spread
from benchmarks.report import fastest, figures, ratio, times_as_fast
from benchmarks.scaling import cliffs

AGREEMENT = 1e-3  # of the RMS: further apart is other work
RANDOM_AGREEMENT = 0.05  # of the RMS itself, where each peer draws its own mask
FIXED = (("network", 18), ("layer", 30), ("batch", -5), ("pass", 16))
DERIVED = (("÷ best", -19), ("best", 19), ("GFLOP/s", -8), ("GB/s", -6))


def line(cells: Iterable[tuple[str, int]]) -> str:
    """Cells of fixed width, to the right where the width is negative: rows appear one by one."""
    return "  ".join(f"{text:<{w}}" if w > 0 else f"{text:>{-w}}" for text, w in cells).rstrip()


def peer_columns(result: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, -max(len(name), 9)) for name in result["peers"]]


def header(result: dict[str, Any]) -> str:
    return line((*FIXED, *peer_columns(result), *DERIVED))


def ours_and_best(
    entry: dict[str, Any],
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Our fastest peer and the fastest other."""
    return (
        fastest([peer for peer in entry["peers"] if peer["ours"]]),
        fastest([peer for peer in entry["peers"] if not peer["ours"]]),
    )


def rate(entry: dict[str, Any], peer: dict[str, Any]) -> float:
    """FLOP/s of the median round."""
    return entry["flops"] / seconds(peer)


def seconds(peer: dict[str, Any]) -> float:
    return statistics.median(statistics.median(times) for times in peer["turns"])


def row(result: dict[str, Any], entry: dict[str, Any]) -> str:
    """Milliseconds of each peer; ours against the best other; rates of ours, or of the fastest."""
    problem = entry["problem"]
    batch = "" if problem["parameters"] else str(problem["batch"])
    network = problem["networks"][0]
    texts = [network, entry["name"], batch, entry["pass"]]
    cells = [(text, width) for text, (_, width) in zip(texts, FIXED, strict=True)]
    doubtful = departing(entry)
    by_name = {peer["peer"]: peer for peer in entry["peers"]}
    for name, width in peer_columns(result):
        peer = by_name.get(name)
        mark = "!" if name in doubtful else ""
        text = (
            f"{Spread.of(figures(result, peer)).median:.3f}{mark}" if peer else missing(entry, name)
        )
        cells.append((text, width))
    ours, best = ours_and_best(entry)
    shown = ours or best
    derived = [
        times_as_fast(ratio(best, ours)) if ours and best else "",
        best["peer"] if best else "",
        f"{rate(entry, shown) / 1e9:.1f}" if shown else "",
        f"{entry['bytes'] / seconds(shown) / 1e9:.1f}" if shown else "",
    ]
    cells += [(text, width) for text, (_, width) in zip(derived, DERIVED, strict=True)]
    notes = [f"  failed: {name}: {why}" for name, why in entry["failed"].items()]
    if not entry["peers"] and not entry["failed"]:
        notes += [f"  left out: {why}" for why in dict.fromkeys(entry["left_out"].values())]
    if doubtful:
        notes.append("  ! not the same work? results apart from the others'")
    return "\n".join([line(cells), *notes])


def missing(entry: dict[str, Any], name: str) -> str:
    return "failed" if name in entry["failed"] else "–"


def departing(entry: dict[str, Any]) -> set[str]:
    """Peers whose results are not those of the others: their distance from the median of all."""
    checks = {peer["peer"]: peer["check"] for peer in entry["peers"]}
    if not checks:
        return set()
    middle = [statistics.median(values) for values in zip(*checks.values(), strict=True)]
    if entry["problem"]["kind"] == "dropout":
        bound = RANDOM_AGREEMENT * middle[0]
        return {name for name, kept in checks.items() if not abs(kept[0] - middle[0]) <= bound}
    return {name for name, kept in checks.items() if not tensors.apart(kept, middle) <= AGREEMENT}


def compared(result: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
    """The entries that have both, and how many times as fast as the best other we are."""
    pairs = [(entry, *ours_and_best(entry)) for entry in result["layers"]]
    return [(entry, ratio(best, ours).median) for entry, ours, best in pairs if ours and best]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def summary(result: dict[str, Any]) -> str:
    """Geometric means by group, the worst of all, and who was left out; of a scaling run its tables."""
    pairs = compared(result)
    lines: list[str] = []
    if result["benchmark"] == "scaling":
        lines += scaling_tables(result)
    elif pairs:
        rows = [["times as fast as the best peer", "layers", "geometric mean", "worst", "best"]]
        groups = dict.fromkeys(entry["group"] for entry, _ in pairs)
        for group in [*groups, "all"]:
            values = [value for entry, value in pairs if group in ("all", entry["group"])]
            shown = (geometric_mean(values), min(values), max(values))
            rows.append([group, str(len(values)), *(f"{value:.2f}" for value in shown)])
        lines += report.aligned(rows)
        entry, value = min(pairs, key=lambda pair: pair[1])
        problem = entry["problem"]
        lines.append(
            f"worst of all: {value:.2f}: {problem['networks'][0]} {entry['name']}, "
            f"batch {problem['batch']}, {entry['pass']}"
        )
    found = [peer for entry in result["layers"] for peer in entry["peers"]]
    lines += [f"version: {v}" for v in dict.fromkeys(peer["version"] for peer in found)]
    present = {peer["peer"] for peer in found}
    for name in result["peers"]:
        reasons = [e["left_out"][name] for e in result["layers"] if name in e["left_out"]]
        if name not in present and reasons:
            lines.append(f"left out: {name}: {reasons[0]}")
    return "\n".join(lines)


def curves(result: dict[str, Any]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The entries of a scaling run by (base, pass, axis), in the order of the axis."""

    def key(entry: dict[str, Any]) -> tuple[str, str, str]:
        return entry["base"], entry["pass"], entry["axis"]

    entries = sorted(result["layers"], key=lambda entry: (key(entry), entry["value"]))
    return {k: list(group) for k, group in itertools.groupby(entries, key)}


def rates(entries: Sequence[dict[str, Any]], name: str) -> tuple[list[dict[str, Any]], list[float]]:
    """The entries that the peer has, and its rates there."""
    pairs = [(e, p) for e in entries for p in e["peers"] if p["peer"] == name]
    return [e for e, _ in pairs], [rate(e, p) for e, p in pairs]


def scaling_tables(result: dict[str, Any]) -> list[str]:
    """A table a curve: milliseconds and GFLOP/s of each peer; ! marks a cliff."""
    lines: list[str] = []
    for (base, pass_, axis), entries in curves(result).items():
        columns = [[axis, *(str(entry["value"]) for entry in entries)]]
        for name in result["peers"]:
            had, values = rates(entries, name)
            if not had:
                continue
            cells = {
                entry["value"]: (
                    f"{1e3 * entry['flops'] / value:.3f}",
                    f"{value / 1e9:.1f}{'!' * fell}",
                )
                for entry, value, fell in zip(had, values, cliffs(values), strict=True)
            }
            for part, unit in enumerate(("ms", "GFLOP/s")):
                texts = [cells.get(entry["value"], ("–", "–"))[part] for entry in entries]
                columns.append([f"{name} {unit}", *texts])
        lines += [f"{base}, {pass_}", *report.aligned(list(zip(*columns, strict=True))), ""]
    ours = {p["peer"] for e in result["layers"] for p in e["peers"] if p["ours"]}
    fallen = []
    for (base, pass_, axis), entries in curves(result).items():
        for name in result["peers"]:
            had, values = rates(entries, name)
            steps = zip(had, cliffs(values), strict=True)
            where = [f"{base}, {pass_}, {axis} {entry['value']}" for entry, fell in steps if fell]
            fallen += where if name in ours else []
    return [*lines, f"cliffs of ours: {'; '.join(fallen) or 'none'}"]


def draw(result: dict[str, Any], path: Path) -> None:
    """The roofline, or the curves of a scaling run.

    Errors: ValueError if nothing was measured.
    """
    from matplotlib.figure import Figure

    if not any(entry["peers"] for entry in result["layers"]):
        raise ValueError("no peer was measured: there is nothing to draw")
    figure = Figure(layout="constrained")
    here = result["machine"]
    title = (
        f"{here['processor']}, {here['instruction_set']}, {result['threads']} threads; median of "
    )
    figure.suptitle(f"{title}{result['rounds']} rounds", fontsize=10)
    (draw_curves if result["benchmark"] == "scaling" else draw_roofline)(figure, result)
    figure.savefig(path, dpi=150)


def draw_roofline(figure: Any, result: dict[str, Any]) -> None:
    """Each pass of each layer a point: ours in its group's colour, the best other peer in grey."""
    from matplotlib import colormaps

    figure.set_size_inches(10, 7)
    axis = figure.subplots()
    peak = result["ceilings"]["flops_per_second"] / 1e9
    bandwidth = result["ceilings"]["bytes_per_second"] / 1e9
    groups: dict[str, list[tuple[float, float]]] = {}
    others: list[tuple[float, float]] = []
    for entry in result["layers"]:
        intensity = entry["flops"] / entry["bytes"]
        ours, best = ours_and_best(entry)
        if ours:
            groups.setdefault(entry["group"], []).append((intensity, rate(entry, ours) / 1e9))
        if best:
            others.append((intensity, rate(entry, best) / 1e9))
    points = [point for group in groups.values() for point in group] + others
    low, high = min(x for x, _ in points) / 2, max(x for x, _ in points) * 2
    ridge = peak / bandwidth
    xs = sorted({low, min(max(ridge, low), high), high})
    axis.plot(xs, [min(peak, bandwidth * x) for x in xs], color="#333333", linewidth=1.5)
    if others:
        axis.scatter(*zip(*others, strict=True), s=12, color=report.PEER, label="best other peer")
    for number, (group, ours_there) in enumerate(groups.items()):
        color = colormaps["tab10"](number % 10)
        axis.scatter(*zip(*ours_there, strict=True), s=16, color=color, label=group)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("FLOP a byte (operations of the definition; every tensor once)")
    axis.set_ylabel("GFLOP/s")
    axis.set_title(ceilings.describe(result["ceilings"]), loc="left", fontsize=9)
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def draw_curves(figure: Any, result: dict[str, Any]) -> None:
    """A row a base and pass, a column an axis, a line a peer."""
    found = curves(result)
    rows = list(dict.fromkeys((base, pass_) for base, pass_, _ in found))
    columns = list(dict.fromkeys(axis for _, _, axis in found))
    figure.set_size_inches(3.4 * len(columns), 2.2 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for (base, pass_, axis_name), entries in found.items():
        axis = grid[rows.index((base, pass_)), columns.index(axis_name)]
        for name in result["peers"]:
            had, values = rates(entries, name)
            axis.plot([e["value"] for e in had], [v / 1e9 for v in values], marker=".", label=name)
        axis.set_title(f"{base}, {pass_}", fontsize=8)
        axis.set_xlabel(axis_name, fontsize=8)
        axis.set_ylabel("GFLOP/s", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    grid[0, 0].legend(fontsize=7)


def show(result: dict[str, Any]) -> None:
    print(report.heading(result))
    print(ceilings.describe(result["ceilings"]) + "\n\n" + header(result))
    for entry in result["layers"]:
        print(row(result, entry))
    print("\n" + summary(result))


def main(arguments: Sequence[str] | None = None) -> int:
    return report.show_again(__doc__, arguments, show, draw)


if __name__ == "__main__":
    sys.exit(main())
