"""Method cards: run the comparisons, and write their pages from the results.

python -m docs.make_cards run                    every card, 5 seeds; goes on where it was broken off
python -m docs.make_cards run dropout --seeds 10
python -m docs.make_cards run --network resnet --seeds 3
python -m docs.make_cards time                   what the ways cost in time; on a quiet machine
python -m docs.make_cards write                  the pages alone, from docs/methods/results/*.csv

Every finished run is on disk at once. Cards whose baselines are the same share its runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# `python docs/make_cards.py` works as `python -m docs.make_cards` does.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from docs.cards import page, table, timing, training
from pyconvopt import registry
from pyconvopt.files import write_whole


def write_pages(results: Path, pages: Path, budget: Mapping[str, Any]) -> None:
    """Write every card's page, and the list in the index."""
    cards = table.read()
    for key, card in cards.items():
        write_whole(pages / f"{key}.md", page.page(card, results, budget))
    index = (table.METHODS / "index.md").read_text("utf-8")
    listing = page.listing(cards, results, budget)
    write_whole(pages / "index.md", page.with_listing(index, listing))


def run_studies(
    studies: Iterable[table.Study],
    results: Path,
    pages: Path,
    seeds: int,
    budget: Mapping[str, Any],
) -> None:
    """Run the studies, writing the pages after each."""
    for study in studies:
        for way in study.entries(budget):
            training.way_is_known(way)
        print(f"# {study.card}, {study.recipe}", flush=True)
        training.run_study(study, results, seeds, budget)
        write_pages(results, pages, budget)


def time_studies(studies: Iterable[table.Study], results: Path, rounds: int) -> None:
    """Time the ways of the studies."""
    for study in studies:
        print(f"# {study.card}, {study.recipe}", flush=True)
        timing.measure(study, results, rounds)


def chosen(keys: Sequence[str], network: str | None) -> Iterator[table.Study]:
    """The studies of the cards of those keys (none: all) whose packages are installed."""
    cards = table.read()
    for card in [registry.find("card", cards, key) for key in keys] or list(cards.values()):
        if card.needs and find_spec(card.needs) is None:
            print(f"{card.key} is left out: {card.needs} is not installed", flush=True)
        else:
            yield from (each for each in card.studies if network in (None, each.recipe))


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="make_cards", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("run", "time", "write"))
    parser.add_argument("cards", nargs="*", help="keys of methods.toml; default: all")
    parser.add_argument("--network", choices=table.SOURCES, help="this one's runs only")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each way (5)")
    parser.add_argument("--rounds", type=int, default=7, help="timed epochs of each way (7)")
    parser.add_argument("--epochs", type=int, help="another length, for a trial")
    parser.add_argument("--images", type=int, help="the first training images only, for a trial")
    parser.add_argument("--results", type=Path, default=table.METHODS / "results")
    parser.add_argument("--pages", type=Path, default=table.METHODS)
    given = parser.parse_args(arguments)
    budget = {"fit.epochs": given.epochs, "images": given.images}
    budget = {key: value for key, value in budget.items() if value is not None}
    try:
        studies = chosen(given.cards, given.network)
        if given.what == "run":
            run_studies(studies, given.results, given.pages, given.seeds, budget)
        if given.what == "time":
            time_studies(studies, given.results, given.rounds)
        write_pages(given.results, given.pages, budget)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
