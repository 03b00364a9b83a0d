"""The figures as a table, a JSON file and a bar chart.

All three read the same dict, which the JSON file holds whole, every timed run included. So a
table or chart can be made again later: python -m benchmarks.report FILE.json [--png FILE.png]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Spread, paired_ratio, round_figures

BUSY = 0.5  # load average above which a measurement is disturbed
OURS, PEER, TUNED = "#1b6ca8", "#b8bec6", "#d9cfb4"


def write_json(result: dict[str, Any], path: Path) -> None:
    """All figures into a file, which is the old one or the new one, never half of either.

    By itself: the library, which has a function for that, need not be installed where peers are compared.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def require_writable(json_file: Path | None, chart: Path | None) -> None:
    """Refuse, before minutes of measuring, what could not be written after them.

    Errors: ValueError that names the folder or the package that is missing.
    """
    for path in (json_file, chart):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if chart is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError('a chart needs matplotlib: pip install "pyconvopt[bench]"')


def heading(result: dict[str, Any]) -> str:
    """What was measured, and on what."""
    turn = result["turn"]
    settings = "".join(f", {name}={value}" for name, value in result["machine"]["settings"].items())
    burst = f", bursts of {turn['seconds']:g} s" if turn["seconds"] else ""
    several = result["processes"] > 1
    processes = f" in {result['processes']} processes of each peer" if several else ""
    return (
        f"{result['title']}, {result['unit']}: median of {result['rounds']} rounds"
        f"{processes}{burst}\n{machine_line(result)}{settings}"
    )


def machine_line(result: dict[str, Any]) -> str:
    """The machine, how many threads of it were used, and whether it was quiet."""
    here = result["machine"]
    busy = " (other programs are running: do not trust the figures)" * (here["load_before"] > BUSY)
    return (
        f"{here['processor']}, {here['instruction_set']}, {result['threads']} threads on "
        f"{here['cores']} cores, load before {here['load_before']:.2f}{busy}"
    )


def figures(result: dict[str, Any], peer: dict[str, Any]) -> list[float]:
    """A peer's figures, one a round, in the report's unit."""
    return [figure * result["per_second"] for figure in round_figures(peer["turns"])]


def ratio(theirs: dict[str, Any], ours: dict[str, Any]) -> Spread:
    """How many times as fast `ours` is, paired by rounds."""
    return paired_ratio(round_figures(theirs["turns"]), round_figures(ours["turns"]))


def fastest(peers: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return min(peers, key=lambda p: Spread.of(round_figures(p["turns"])).median, default=None)


def times_as_fast(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def section(result: dict[str, Any], measured: dict[str, Any]) -> str:
    """One model: the table of its peers, then what follows from it.

    The columns ÷ hold a peer's time over ours: how many times as fast ours is.
    """
    peers = measured["peers"]
    ours = [peer for peer in peers if peer["ours"]]
    unit, doubtful = result["unit"], departing(result, measured)
    header = ["peer", unit, "min–max", *(f"÷ {our['peer']}" for our in ours)]
    rows = [[*header, result["check"], "parameters", "peak MiB"]]
    for peer in peers:
        spread = Spread.of(figures(result, peer))
        rows.append(
            [
                peer["peer"],
                f"{spread.median:.2f}",
                f"{spread.low:.2f}–{spread.high:.2f}",
                *(times_as_fast(ratio(peer, our)) for our in ours),
                f"{peer['check']:.4f}{'!' if peer['peer'] in doubtful else ' '}",
                f"{peer['parameters']:,}" if peer["parameters"] else "",
                f"{peer['peak_memory_mib']:.0f}",
            ]
        )
    size = "×".join(map(str, measured["input_shape"]))
    lines = [f"{measured['model']}, batch {measured['batch']}, {size}"]
    lines += aligned(rows) if peers else []
    lines += conclusions(result, measured)
    if doubtful:
        lines.append(f"! not the same work? {result['check']} apart from the others'")
    if len({peer["parameters"] for peer in peers if peer["parameters"]}) > 1:
        lines.append("! not the same model: the numbers of parameters differ")
    for version in dict.fromkeys(peer["version"] for peer in peers):
        lines.append(f"version: {version}")
    for label in ("left_out", "failed"):
        what = label.replace("_", " ")
        lines += [f"{what}: {name}: {reason}" for name, reason in measured[label].items()]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def conclusions(result: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """Ours beside the fastest peer, and beside the fastest that needs no tuning."""
    ours = [peer for peer in measured["peers"] if peer["ours"]]
    others = [peer for peer in measured["peers"] if not peer["ours"]]
    lines: list[str] = []
    best = fastest(others)
    plain = fastest([peer for peer in others if not peer["tuned"]])
    for label, peer in (("fastest peer", best), ("fastest without tuning", plain)):
        if peer is None or (label != "fastest peer" and peer is best):
            continue
        line = f"{label}: {peer['peer']}, {Spread.of(figures(result, peer)).median:.2f} "
        line += result["unit"]
        for our in ours:
            line += f"; {our['peer']} {times_as_fast(ratio(peer, our))} times as fast"
            if result["total"]:
                total = sum(figures(result, peer)) / sum(figures(result, our))
                line += f", {total:.2f} over all {result['rounds']}"
        lines.append(line)
    return lines


def departing(result: dict[str, Any], measured: dict[str, Any]) -> set[str]:
    """Peers whose loss after the same steps from the same start is not that of the others.

    Within 1 % of the median of all peers is agreement; within 10 % where dropout draws its own
    masks. A test accuracy is shown and not judged.
    """
    peers = measured["peers"]
    if not result["check_first"] or not peers:
        return set()
    middle = statistics.median(peer["check"] for peer in peers)
    bound = (0.1 if measured["random"] else 0.01) * abs(middle)
    return {peer["peer"] for peer in peers if not abs(peer["check"] - middle) <= bound}


def draw(result: dict[str, Any], path: Path) -> None:
    """A panel a model, a bar a peer: median, the range of the rounds, and the ratio to ours.

    Errors: ValueError if there is nothing to draw.
    """
    from matplotlib.figure import Figure

    panels = [measured for measured in result["models"] if measured["peers"]]
    if not panels:
        raise ValueError("no peer was measured: there is nothing to draw")
    bars = [len(measured["peers"]) for measured in panels]
    figure = Figure(figsize=(9, 1.3 + sum(0.38 * n + 0.75 for n in bars)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 1 for n in bars])
    for axis, measured in zip(axes[:, 0], panels, strict=True):
        draw_panel(axis, result, measured)
    axes[-1, 0].set_xlabel(f"{result['title']}, {result['unit']} (shorter is better)")
    here = result["machine"]
    tuned = any(peer["tuned"] for measured in panels for peer in measured["peers"])
    figure.suptitle(
        f"{here['processor']}, {here['instruction_set']}, {result['threads']} threads; median of "
        f"{result['rounds']} rounds, line: min to max" + "; sand: tuned beyond the program" * tuned,
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def draw_panel(axis: Any, result: dict[str, Any], measured: dict[str, Any]) -> None:
    peers = measured["peers"]
    our = fastest([peer for peer in peers if peer["ours"]])
    longest = max(max(figures(result, peer)) for peer in peers)
    for row, peer in enumerate(peers):
        spread = Spread.of(figures(result, peer))
        color = OURS if peer["ours"] else TUNED if peer["tuned"] else PEER
        axis.barh(row, spread.median, height=0.7, color=color)
        axis.plot([spread.low, spread.high], [row, row], color="#333333", linewidth=1.5)
        label = f"{spread.median:.2f}"
        if our is not None and not peer["ours"]:
            label += f"   {ratio(peer, our).median:.2f} × {our['peer']}"
        axis.text(spread.high + 0.012 * longest, row, label, va="center", fontsize=9)
    axis.set_yticks(range(len(peers)), [peer["peer"] for peer in peers], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, longest * 1.38)
    axis.spines[["top", "right"]].set_visible(False)
    size = "×".join(map(str, measured["input_shape"]))
    axis.set_title(
        f"{measured['model']}, batch {measured['batch']}, {size}", loc="left", fontsize=11
    )


def show_again(
    description: str | None,
    arguments: Sequence[str] | None,
    show: Callable[[dict[str, Any]], None],
    draw: Callable[[dict[str, Any], Path], None],
) -> int:
    """The command that reads a result's file, prints it as the run did, and draws it if asked to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("file", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(arguments)
    try:
        require_writable(None, options.png)
        result = read_json(options.file)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(result)
    if options.png:
        draw(result, options.png)
    return 0


def show(result: dict[str, Any]) -> None:
    print(heading(result))
    for measured in result["models"]:
        print("\n" + section(result, measured))


def main(arguments: Sequence[str] | None = None) -> int:
    return show_again(__doc__, arguments, show, draw)


if __name__ == "__main__":
    sys.exit(main())
