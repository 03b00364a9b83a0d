"""The pages of the method cards, and their list."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.cards import timing
from docs.cards.table import RESNET, SEED, Card, Study, shown
from docs.cards.training import described, finished
from pyconvopt.training import Comparison
from pyconvopt.training.statistics import Estimate

BEGIN, END = "<!-- the cards, written by make_cards -->", "<!-- the end of the cards -->"

READING = """Test accuracy after the last epoch, held seed by seed against the first line, p of the paired
t-test; time of a training epoch, in turns with the first line's. Means with 95 % intervals
(Student's t). What the first line changes holds for all lines."""
HEADINGS = {SEED: "### The article's network", RESNET: "### A small ResNet"}

# How mkdocstrings shows the docstring that a card takes its formula from.
SHOWN = ("members: false", "show_root_heading: true", "heading_level: 2")


def percent(value: Estimate | None, digits: int) -> str:
    """A change in per cent with its interval.

    >>> percent(Estimate(0.0123, 0.004, 5), 2), percent(Estimate(-0.1, float('nan'), 1), 0)
    ('+1.23 ± 0.40', '-10')
    """
    if value is None or not value.runs:
        return ""
    text = f"{100 * value.mean:+.{digits}f}"
    return text if math.isnan(value.half_width) else f"{text} ± {100 * value.half_width:.{digits}f}"


def results_table(
    comparison: Comparison,
    study: Study,
    times: Mapping[str, Estimate],
    budget: Mapping[str, Any],
) -> list[str]:
    """The table of a study: accuracy, its change, the change in time."""
    common = study.entries(budget)[0].changes
    lines = [
        "| | change to the recipe | runs | accuracy, % | change, points | p | change in time, % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in comparison.rows:
        is_baseline = row.name == study.recipe
        changes = common if is_baseline else study.ways[row.name]
        named = f"the recipe `{study.recipe}`" if is_baseline else row.name
        accuracy = percent(row.score, 2).lstrip("+")
        difference = p = time = ""
        if row.difference is not None:
            difference = percent(row.difference, 2)
            p = "" if row.p is None or math.isnan(row.p) else f"{row.p:.2g}"
            time = percent(times.get(row.name), 0)
        cells = [named, shown(changes), str(row.score.runs), accuracy, difference, p, time]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(difference: Estimate | None) -> str:
    """What a difference of accuracies says, by its interval.

    >>> verdict(Estimate(0.01, 0.004, 5)), verdict(Estimate(-0.01, 0.02, 5))
    ('helped', 'no difference that these runs could tell from chance')
    """
    if difference is None or not difference.runs or math.isnan(difference.half_width):
        return "too few runs to tell"
    if abs(difference.mean) <= difference.half_width:
        return "no difference that these runs could tell from chance"
    return "helped" if difference.mean > 0 else "harmed"


def measured(study: Study, results: Path, budget: Mapping[str, Any]) -> list[str]:
    """What was measured, and on what; or what would measure it."""
    comparison = finished(study, results, budget)
    if comparison is None:
        recipes = [f"| {label} | {shown(changes)} |" for label, changes in study.ways.items()]
        base = f", all runs with {shown(study.base)}" if study.base else ""
        command = f"python -m docs.make_cards run {study.card} --network {study.recipe}"
        return [
            f"Not measured yet; `{command}` does it{base}:",
            "",
            "| | change to the recipe |",
            "|---|---|",
            *recipes,
            "",
        ]
    times = timing.changes(study, results)
    on = made_on(results, study.file)
    places = {f"the recipe `{study.recipe}` itself": made_on(results, study.recipe)}
    if times:
        places["times"] = made_on(results, timing.FILE)
    elsewhere = [f"{what} on {place}" for what, place in places.items() if place != on]
    return [
        *results_table(comparison, study, times, budget),
        "",
        *(f"- {row.name}: {verdict(row.difference)}." for row in comparison.rows[1:]),
        "",
        f"Measured on {'; '.join([on, *elsewhere])}.",
        "",
    ]


def made_on(results: Path, key: str) -> str:
    """The machine and the versions of a file's runs, for a reader."""
    facts = described(results, key)
    machine = facts["machine"]
    return (
        f"{machine['processor']} ({machine['instruction_set']}, {machine['cores']} cores), "
        f"torch {machine['torch']}, pyconvopt {facts['pyconvopt']}"
    )


def page(card: Card, results: Path, budget: Mapping[str, Any]) -> str:
    """The page of a card."""
    options = "\n".join(f"      {option}" for option in SHOWN)
    method = [f"::: {name}\n    options:\n{options}\n" for name in card.of]
    if card.formula:
        method.insert(0, f"{card.formula}\n")
    needs = []
    if card.needs:
        needs = ["It needs the extra [`optimizers`](../install.md#extras).", ""]
    return "\n".join(
        [
            f"# {card.title}",
            "",
            *method,
            "## When it helps",
            "",
            card.when.strip(),
            "",
            "## How to use it",
            "",
            *needs,
            f"```python\n{card.use.strip()}\n```",
            "",
            "## Measured",
            "",
            READING,
            "",
            *(
                line
                for study in card.studies
                for line in (HEADINGS[study.recipe], "", *measured(study, results, budget))
            ),
        ]
    )


def summary(cards: Mapping[str, Card], results: Path, budget: Mapping[str, Any]) -> str:
    """Which methods helped which network, which harmed, and of which the runs cannot tell; the
    largest first."""
    found: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for card in cards.values():
        for study in card.studies:
            comparison = finished(study, results, budget)
            for row in comparison.rows[1:] if comparison else ():
                text = f"[{card.title}]({card.key}.md), {row.name} ({percent(row.difference, 2)})"
                change = row.difference.mean if row.difference else 0.0
                said = found.setdefault(study.recipe, {})
                said.setdefault(verdict(row.difference), []).append((change, text))
    lines = []
    for recipe, verdicts in found.items():
        lines += [HEADINGS[recipe], ""]
        for said, ways in sorted(verdicts.items(), key=lambda pair: -max(pair[1])[0]):
            lines += [f"**{said.capitalize()}**, points of accuracy:", ""]
            lines += [f"- {text}" for _, text in sorted(ways, reverse=True)] + [""]
    return "\n".join(lines).strip()


def listing(cards: Mapping[str, Card], results: Path, budget: Mapping[str, Any]) -> str:
    """The list of the cards: a table for each group, with every way's change and effect."""
    lines: list[str] = [summary(cards, results, budget)]
    group = ""
    for card in cards.values():
        if card.group != group:
            group = card.group
            lines += ["", f"### {group}", ""]
            lines += ["| method | | change to the recipe | accuracy, points | time, % |"]
            lines += ["|---|---|---|---:|---:|"]
        link = f"[{card.title}]({card.key}.md)"
        for study in card.studies:
            for cells in effects(study, results, budget):
                lines.append("| " + " | ".join([link, *cells]) + " |")
                link = ""
    return "\n".join(lines).strip()


def effects(study: Study, results: Path, budget: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Of each way its label, its changes, and what it did to accuracy and time."""
    comparison = finished(study, results, budget)
    rows = {row.name: row for row in comparison.rows} if comparison else {}
    times = timing.changes(study, results)
    for label, changes in study.ways.items():
        named = label if study.recipe == SEED else f"{label}, ResNet"
        accuracy, time = "not measured", ""
        if label in rows:
            accuracy = percent(rows[label].difference, 2)
            time = percent(times.get(label), 0)
        yield named, shown(changes), accuracy, time


def with_listing(index: str, text: str) -> str:
    """The index page with the list between its marks.

    Errors: ValueError for a page without them.
    """
    before, begin, rest = index.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the index of the cards lacks {BEGIN!r} or {END!r}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
