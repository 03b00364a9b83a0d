"""The method cards: a sound table, a tiny comparison that is taken up, pages with what was measured."""

from __future__ import annotations

import doctest
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from docs import make_cards
from docs.cards import page, table, timing, training
from docs.cards.table import Card, Way
from pyconvopt.training.results import ResultsFile, RunRecord, as_csv

CARDS = table.read()
STUDIES = [study for card in CARDS.values() for study in card.studies]
NOTHING: dict = {}


@pytest.fixture
def tiny_data(monkeypatch):
    """Images a network can tell apart, in place of the data set."""
    generator = np.random.default_rng(0)

    def made(recipe):
        def images(count):
            labels = np.arange(count) % 10
            x = generator.random((count, 28, 28, 1), np.float32) / 4
            for image, label in zip(x, labels, strict=True):
                image[2 * label : 2 * label + 4] += 0.7
            return x, labels

        return images(128), images(40)

    monkeypatch.setattr(training, "arrays", made)


def card(**more) -> Card:
    given = {"title": "T", "group": "G", "when": "W", "use": "pass", "formula": "F"}
    return Card("t", **{**given, "ways": {"more": {"compile.clip_norm": 1.0}}, **more})


def record(way: Way, seed: int, accuracy: float) -> RunRecord:
    return RunRecord(way.name, "function", seed, [1.0], {"val_accuracy": [accuracy]})


@pytest.mark.parametrize("module", [table, training, page])
def test_examples_hold(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.file)
def test_every_way_trains(study, tiny_data):
    """One epoch of two steps: all changes are understood, and the run gives the number compared."""
    needed = CARDS[study.card].needs
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    for way in study.entries({"fit.epochs": 1}):
        history = training.train(way, 0)
        assert len(history.history["val_accuracy"]) == 1, way.name
        assert np.isfinite(history.history["loss"][-1]), way.name


def test_a_change_changes_the_run(tiny_data):
    """No way of any card is the baseline under another name."""
    for study in STUDIES:
        ways = [way.changes for way in study.entries()]
        assert all(ways.count(changes) == 1 for changes in ways), study.file
    way = Way(
        "all",
        {
            "schedule": {"name": "cosine", "config": {"lr": 0.5, "n": 9}},
            "optimizer": {"name": "sgd", "config": {"momentum": 0.9}},
            "averaging": {"name": "EMA", "config": {"decay": 0.5}},
            "loss": {"name": "cross_entropy", "config": {"label_smoothing": 0.2}},
            "insert": [{"before": 6, "type": "Dropout", "rate": 0.5}],
        },
    )
    model = training.prepared(way, (28, 28, 1))[1]
    trainer = model.trainer()
    assert trainer.schedule.lr == 0.5 and trainer.callbacks[0].decay == 0.5
    assert trainer.optimizer_spec.keywords == {"momentum": 0.9}
    assert trainer.loss.label_smoothing == 0.2
    assert [type(layer).__name__ for layer in model.layers][5:7] == ["Flatten", "Dropout"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit.epoch": 1}, "did you mean 'epochs'"),
        ({"layers.77.rate": 1}, "the recipe has layers 0"),
        ({"insert": [{"before": 9, "type": "Dropout", "rate": 0.1}]}, "does not have"),
        ({"averaging": {"name": "EMAA"}}, "did you mean 'EMA'"),
        ({"augment": [{"name": "Crop"}]}, "unknown method 'Crop'"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        training.way_is_known(Way("wrong", changes))


def test_tables_that_lack_something(tmp_path):
    (tmp_path / "a.toml").write_text('[a]\ntitle = "A"\nwhat = 1\n')
    with pytest.raises(ValueError, match="card a: 'what'"):
        table.read(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text('[a]\ntitle = "A"\n')
    with pytest.raises(ValueError, match="card a lacks group"):
        table.read(tmp_path / "a.toml")


def test_a_tiny_budget_is_run_once(tmp_path, tiny_data, capsys):
    arguments = ["--seeds", "2", "--epochs", "1", "--images", "64"]
    arguments += ["--results", str(tmp_path / "results"), "--pages", str(tmp_path / "pages")]
    assert make_cards.main(["run", "dropout", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# dropout, seed" and len(lines) == 1 + 2 * 3
    # The baseline, then the ways in turns; who begins rotates.
    order = [line.rsplit(" ", 7)[0] for line in lines[1:]]
    assert order == ["seed", "seed", "rate 0.25", "rate 0.5", "rate 0.5", "rate 0.25"]
    before = (tmp_path / "results/dropout.csv").read_text()
    text = (tmp_path / "pages/dropout.md").read_text()
    assert (
        "| the recipe `seed` | `fit.epochs = 1`<br>`images = 64` | 2 |" in text
        and "Measured on" in text
    )
    assert "Not measured yet" in (tmp_path / "pages/l2.md").read_text()
    assert "| [Dropout](dropout.md) | rate 0.25 |" in (tmp_path / "pages/index.md").read_text()

    assert make_cards.main(["run", "dropout", *arguments]) == 0
    assert capsys.readouterr().out == "# dropout, seed\n"
    assert (tmp_path / "results/dropout.csv").read_text() == before
    # Runs of a trial are not those of the card itself.
    assert training.finished(CARDS["dropout"].studies[0], tmp_path / "results", NOTHING) is None

    # Another card takes the baseline's runs over.
    assert make_cards.main(["run", "l2", *arguments]) == 0
    assert not any("seed " in line.split(",")[0] for line in capsys.readouterr().out.splitlines())
    assert "| the recipe `seed` |" in (tmp_path / "pages/l2.md").read_text()


def test_runs_of_two_machines_are_not_mixed(tmp_path, tiny_data, capsys):
    results = tmp_path / "results"
    arguments = ["--epochs", "1", "--pages", str(tmp_path / "pages"), "--results", str(results)]
    assert make_cards.main(["run", "l2", "--seeds", "1", *arguments]) == 0
    for key in ("l2", "seed"):
        facts = json.loads((results / f"{key}.json").read_text())
        facts["machine"]["processor"] = "another"
        (results / f"{key}.json").write_text(json.dumps(facts))
    # The baseline is complete: ways of this machine are held against it, and the page says so.
    assert make_cards.main(["run", "dropout", "--seeds", "1", *arguments]) == 0
    text = (tmp_path / "pages/dropout.md").read_text()
    assert "the recipe `seed` itself on another (" in text
    # What is not complete is not gone on with here.
    assert make_cards.main(["run", "l2", "--seeds", "2", *arguments]) == 1
    assert "the runs of seed were begun on" in capsys.readouterr().err
    (results / "seed.json").write_text((results / "dropout.json").read_text())
    assert make_cards.main(["run", "l2", "--seeds", "2", *arguments]) == 1
    assert "the runs of l2 were begun on" in capsys.readouterr().err


def test_times_are_measured_again(tmp_path, tiny_data, monkeypatch):
    for short in timing.SHORT.values():
        monkeypatch.setitem(short, "images", 64)
    arguments = ["--rounds", "2", "--results", str(tmp_path), "--pages", str(tmp_path / "pages")]
    for _ in range(2):
        assert make_cards.main(["time", "dropout", "flip", *arguments]) == 0
    lines = timing.read(tmp_path)
    assert [line["study"] for line in lines] == ["dropout"] * 4 + ["flip"] * 4 + ["flip-resnet"] * 2
    times = timing.changes(CARDS["dropout"].studies[0], tmp_path)
    assert list(times) == ["rate 0.25", "rate 0.5"] and times["rate 0.5"].runs == 2


def test_the_numbers_on_a_page(tmp_path):
    """Differences 2, 4 and 6 points: mean 4, s = 2, t = 4.3027, half width 4.97; times +50 %."""
    one = card(base={"fit.epochs": 3})
    baseline, way = one.studies[0].entries()
    kept, shared = ResultsFile(tmp_path / "t.csv"), ResultsFile(tmp_path / "seed.csv")
    for seed, points in enumerate((0.02, 0.04, 0.06)):
        shared.add(record(baseline, seed, 0.8))
        kept.add(record(way, seed, 0.8 + points))
    rows = ([*timing.COLUMNS], *([one.key, way.name, number, 2.0, 3.0] for number in range(2)))
    (tmp_path / "times.csv").write_text(as_csv(rows))
    for key in ("seed", "t", timing.FILE):
        training.claim(tmp_path / "other", key)
        (tmp_path / f"other/{key}.json").rename(tmp_path / f"{key}.json")
    text = page.page(one, tmp_path, NOTHING)
    assert "| the recipe `seed` | `fit.epochs = 3` | 3 | 80.00 ± 0.00 |  |  |  |" in text
    assert (
        "| more | `compile.clip_norm = 1.0` | 3 | 84.00 ± 4.97 | +4.00 ± 4.97 | 0.074 | +50 ± 0 |"
    ) in text
    assert "\n- more: no difference that these runs could tell from chance.\n" in text
    assert page.verdict(None) == "too few runs to tell"
    said = page.summary({"t": one}, tmp_path, NOTHING)
    assert said.startswith("### The article's network\n\n**No difference") and said.endswith(
        "- [T](t.md), more (+4.00 ± 4.97)"
    )
    assert f"{training.this_machine()['cores']} cores)" in text and "times on" not in text
    facts = json.loads((tmp_path / "times.json").read_text())
    facts["machine"]["processor"] = "another"
    (tmp_path / "times.json").write_text(json.dumps(facts))
    assert "; times on another (" in page.page(one, tmp_path, NOTHING)


def test_both_networks_stand_on_a_page(tmp_path):
    """What was run with the ResNet alone is not taken for the article's network."""
    one = card(resnet={"half": {"compile.clip_norm": 0.5}})
    baseline, way = one.studies[1].entries()
    ResultsFile(tmp_path / "resnet.csv").add(record(baseline, 0, 0.9))
    ResultsFile(tmp_path / "t-resnet.csv").add(record(way, 0, 0.91))
    for key in ("resnet", "t-resnet"):
        training.claim(tmp_path / "other", key)
        (tmp_path / f"other/{key}.json").rename(tmp_path / f"{key}.json")
    small, resnet = page.page(one, tmp_path, NOTHING).split("### A small ResNet")
    assert "Not measured yet; `python -m docs.make_cards run t --network seed`" in small
    assert "| half | `compile.clip_norm = 0.5` | 1 | 91.00 | +1.00 |" in resnet
    lines = page.listing({"t": one}, tmp_path, NOTHING).splitlines()
    assert "| [T](t.md) | more | `compile.clip_norm = 1.0` | not measured |  |" in lines
    assert "|  | half, ResNet | `compile.clip_norm = 0.5` | +1.00 |  |" in lines


def test_pages_are_those_of_the_results(tmp_path):
    """`python -m docs.make_cards write` would change nothing."""
    make_cards.write_pages(table.METHODS / "results", tmp_path, NOTHING)
    for path in tmp_path.glob("*.md"):
        assert path.read_text("utf-8") == (table.METHODS / path.name).read_text("utf-8"), path.name
    written = {path.name for path in tmp_path.glob("*.md")}
    assert written == {path.name for path in table.METHODS.glob("*.md")}


def test_an_index_without_marks():
    with pytest.raises(ValueError, match="lacks"):
        page.with_listing("# Cards\n", "list")
