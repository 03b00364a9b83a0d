"""Comparisons: the statistics by hand, turns, files that survive a kill, what is written."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch

from pyconvopt.training import History, Trainer, compare
from pyconvopt.training.comparison_page import means_of
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.results import ResultsFile
from pyconvopt.training.statistics import paired_t_test, student_quantile, student_within
from tests.small_models import dense, points
from tests.tiny_data import write_tiny_set


def told(scores: dict[int, list[float]], log: list | None = None, name: str = ""):
    """An entry whose runs come to given scores, an epoch a second."""

    def run(seed: int) -> History:
        if log is not None:
            log.append((name, seed))
        history = History()
        history.history = {"loss": [1.0] * len(scores[seed]), "val_accuracy": scores[seed]}
        history.seconds = [1.0 + seed] * len(scores[seed])
        return history

    return run


FIRST = {0: [0.5, 0.80], 1: [0.5, 0.82], 2: [0.6, 0.84]}
SECOND = {0: [0.7, 0.83], 1: [0.9, 0.84], 2: [0.7, 0.88]}


class Page(HTMLParser):
    """The tags and tables of a page; an error if a tag is closed that is not open."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.tags, self.tables = source, [], []
        self.open: list[str] = []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += text


class TestStatistics:
    @pytest.mark.parametrize(
        ("degrees", "quantile"),  # of tables: two-sided 95 %
        [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)],
    )
    def test_students_t(self, degrees, quantile):
        assert student_quantile(0.95, degrees) == pytest.approx(quantile, abs=1e-4)
        # The density integrated numerically.
        constant = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2)
        constant /= math.sqrt(degrees * math.pi)
        t = torch.linspace(-1.7, 1.7, 20001, dtype=torch.float64)
        density = constant * (1 + t * t / degrees) ** (-(degrees + 1) / 2)
        area = float(torch.trapezoid(density, t))
        assert student_within(1.7, degrees) == pytest.approx(area, abs=1e-7)

    def test_paired(self):
        assert math.isnan(paired_t_test([1.0], [2.0]))
        assert paired_t_test([1.0, 2.0], [1.0, 2.0]) == 1.0
        assert paired_t_test([1.0, 2.0], [0.0, 1.0]) == 0.0


class TestCompare:
    def result(self, **options):
        entries = {"first": told(FIRST), "second": told(SECOND)}
        return compare(entries, 3, verbose=0, target=0.83, **options)

    def test_numbers_by_hand(self):
        first, second = self.result().rows
        assert first.score.mean == pytest.approx(0.82)
        assert first.score.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-5)
        assert second.difference.mean == pytest.approx(0.09 / 3)
        spread = math.sqrt(((0.03 - 0.03) ** 2 + (0.02 - 0.03) ** 2 + (0.04 - 0.03) ** 2) / 2)
        assert second.difference.half_width == pytest.approx(
            4.302653 * spread / math.sqrt(3), rel=1e-5
        )
        t = 0.03 / (spread / math.sqrt(3))
        assert second.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-6)  # 2 degrees
        assert (first.reached, second.reached) == (1, 3)
        assert first.target_seconds.mean == 6.0  # seed 2, both epochs of 3 s
        assert second.target_seconds.mean == pytest.approx((2 + 2 + 6) / 3)
        assert first.seconds.mean == 4.0

    def test_a_loss_is_reached_from_above(self):
        result = compare({"one": told(FIRST)}, 1, monitor="loss", target=1.0, verbose=0)
        assert result.rows[0].reached == 1

    def test_turns(self):
        log: list[tuple[str, int]] = []
        entries = {name: told(FIRST, log, name) for name in "abc"}
        compare(entries, 3, verbose=0)
        assert [name for name, _ in log] == list("abcbcacab")
        assert [seed for _, seed in log] == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    def test_what_is_there_is_not_run_again(self, tmp_path, capsys):
        path, log = tmp_path / "raw" / "results.csv", []
        entries = {"first": told(FIRST, log, "first"), "second": told(SECOND, log, "second")}
        compare(entries, 2, results=path)
        assert len(log) == 4 and len(capsys.readouterr().out.splitlines()) == 4
        got = compare(entries, 3, results=path, target=0.83)
        assert len(log) == 6
        assert got.table() == self.result().table()
        assert compare(entries, 3, results=path, target=0.83).table() == got.table()
        assert len(log) == 6

    @pytest.mark.parametrize("lost", [1, 2, 20, 70, 100])
    def test_a_run_that_was_cut_off_is_run_again(self, tmp_path, lost):
        path, log = tmp_path / "results.csv", []
        entries = {"first": told(FIRST, log), "second": told(SECOND, log)}
        compare(entries, 3, results=path, verbose=0)
        whole = path.read_text()
        path.write_text(whole[:-lost])
        compare(entries, 3, results=path, verbose=0)
        assert len(log) == 7
        assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())

    @pytest.mark.parametrize("lost", [0, 1, 70])
    def test_a_run_that_two_programs_wrote_is_kept_once(self, tmp_path, lost):
        path, log = tmp_path / "results.csv", []
        entries = {"first": told(FIRST, log), "second": told(SECOND, log)}
        compare(entries, 3, results=path, verbose=0)
        whole = path.read_text()
        header, *lines = whole.splitlines(keepends=True)
        cut = "".join(lines)[: -lost or None]
        for twice in (whole + cut, header + cut[: cut.rfind("\n") + 1] + "".join(lines)):
            path.write_text(twice)
            compare(entries, 3, results=path, verbose=0)
            assert len(log) == 6
            assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())

    def test_another_recipe_of_that_name_is_an_error(self, tmp_path, monkeypatch):
        write_tiny_set(tmp_path, 40, 10)
        monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
        recipe = Recipe.load("seed")
        for key, value in (("layers.0.filters", 2), ("fit.epochs", 1)):
            recipe.set(key, value)
        results = tmp_path / "results.csv"
        got = compare({"seed": recipe}, 2, results=results, verbose=0)
        runs = ResultsFile(results).runs
        assert set(runs) == {("seed", 0), ("seed", 1)}
        assert got.runs["seed"][0].history != got.runs["seed"][1].history
        recipe.set("layers.0.filters", 4)
        with pytest.raises(ValueError, match="holds runs of another recipe called 'seed'"):
            compare({"seed": recipe}, 2, results=results, verbose=0)

    def test_models_and_trainers(self):
        def module(seed):
            return Trainer(torch.nn.Linear(2, 2), metrics=["accuracy"])

        entries = {"keras": lambda seed: dense(), "torch": module}
        result = compare(entries, [3, 5], points(), validation=points(seed=1), epochs=2, verbose=0)
        again = compare(entries, [3, 5], points(), validation=points(seed=1), epochs=2, verbose=0)
        for name in entries:
            for seed in (3, 5):
                one, two = result.runs[name][seed], again.runs[name][seed]
                assert one.history == two.history and len(one.seconds) == 2
        assert result.runs["torch"][3].history != result.runs["torch"][5].history

    def test_what_is_written(self, tmp_path):
        pytest.importorskip("matplotlib")
        result = self.result()
        lines = result.markdown().splitlines()
        assert lines[0].startswith("|  | runs | val_accuracy | seconds | seconds to 0.83 |")
        assert lines[3].startswith("| second | 3 | 0.8500 ± 0.0657 |")
        assert "+0.0300 ± 0.0248" in lines[3] and "paired t-test" in lines[-1]
        result.to_csv(tmp_path / "summary.csv")
        with open(tmp_path / "summary.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["p"] == "" and float(rows[1]["p"]) == result.rows[1].p
        read = json.loads(result.to_json())
        assert read["rows"][1]["difference"] == result.rows[1].difference.mean
        single = compare({"one": told(FIRST)}, 1, verbose=0)
        assert json.loads(single.to_json())["rows"][0]["half_width"] is None
        assert "±" not in single.markdown().splitlines()[2]
        for name, each in (("many", result), ("one", single)):
            each.plot(tmp_path / f"{name}.png")
            assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_a_page_on_its_own(self, tmp_path, seeds):
        entries = {'<b>first & "best"': told(FIRST), "second": told(SECOND)}
        result = compare(entries, seeds, verbose=0, target=0.83)
        result.to_html(tmp_path / "page.html")
        seen = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert not {"script", "link", "img", "iframe", "b"} & set(seen.tags)
        assert not re.search(r"https?:|url\(|@import", seen.source)
        summary, raw = seen.tables
        assert [row[1:] for row in summary] == [row[1:] for row in result.cells()]
        assert [row[0] for row in summary[1:]] == list(entries)
        lines = [
            line for runs in result.runs.values() for run in runs.values() for line in run.lines()
        ]
        assert len(raw) - 1 == len(lines) // 2  # a line an epoch, of two numbers
        assert raw[0] == ["name", "seed", "epoch", "seconds", "loss", "val_accuracy"]
        assert raw[2] == ['<b>first & "best"', "0", "2", "1.00", "1", "0.8"]
        assert seen.tags.count("polyline") == 2 and seen.tags.count("details") == 1
        assert "nan" not in seen.source

    def test_numbers_of_some_epochs_stay_in_theirs(self, tmp_path):
        def every_third(seed):
            return Trainer(torch.nn.Linear(2, 2), "sgd", metrics=["accuracy"])

        options = {"epochs": 9, "validation_freq": 3, "validation": points(seed=1), "verbose": 0}
        given = {"data": points(), "target": 0.0, "results": tmp_path / "results.csv"}
        for _ in range(2):  # the second time from the file
            result = compare({"one": every_third}, 1, **given, **options)
            run = result.runs["one"][0]
            assert result.rows[0].target_seconds.mean == math.fsum(run.seconds[:3])
            assert list(run.values("val_loss")) == [2, 5, 8]
            result.to_html(tmp_path / "page.html")
            raw = Page((tmp_path / "page.html").read_text(encoding="utf-8")).tables[1]
            place = raw[0].index("val_loss")
            assert [bool(row[place]) for row in raw[1:]] == [False, False, True] * 3
            assert list(means_of(result, "one")) == [3, 6, 9]

    @pytest.mark.filterwarnings("ignore:the loss is")
    def test_runs_that_failed_are_counted_and_left_out(self, tmp_path):
        pytest.importorskip("matplotlib")

        def of(*rates):
            return lambda seed: Trainer(
                torch.nn.Linear(2, 2), "sgd", learning_rate=rates[seed], metrics=["accuracy"]
            )

        entries = {"first": of(0.1, 0.1), "half": of(0.1, 1e300), "none": of(1e300, 1e300)}
        given = {
            "data": points(),
            "validation": points(seed=1),
            "results": tmp_path / "results.csv",
        }
        for _ in range(2):
            result = compare(entries, 2, target=0.0, epochs=2, verbose=0, **given)
            _, half, none = result.rows
            assert [row.failed for row in result.rows] == [0, 1, 2]
            assert (half.score.runs, half.reached, half.difference.runs) == (1, 1, 1)
            assert half.score.mean == result.score(result.runs["half"][0])
            assert math.isnan(none.score.mean) and math.isnan(none.p)
            lines = result.markdown().splitlines()
            assert "| half | 1 (1 failed) |" in lines[3] and "nan" not in lines[4]
            assert "Runs that failed are left out" in lines[-1]
            assert json.loads(result.to_json())["rows"][2]["val_accuracy"] is None
            result.to_csv(tmp_path / "summary.csv")
            assert "nan" not in (tmp_path / "summary.csv").read_text()
            result.to_html(tmp_path / "page.html")
            assert "none" in Page((tmp_path / "page.html").read_text()).tables[0][3][0]
            result.plot(tmp_path / "picture.png")
        assert "failed" not in compare({"one": of(0.1)}, 1, **given, verbose=0).markdown()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (b",0.82\n", b",0.x2\n", "results.csv, line 9 is damaged: .*'0.x2'; delete the lines"),
            (b"loss", b"l\xffss", "results.csv, line 2 is damaged: it is not UTF-8"),
        ],
    )
    def test_a_damaged_line_is_named(self, tmp_path, old, new, message):
        path = tmp_path / "results.csv"
        compare({"first": told(FIRST)}, 3, results=path, verbose=0)
        path.write_bytes(path.read_bytes().replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            compare({"first": told(FIRST)}, 3, results=path, verbose=0)

    def test_refusals(self, tmp_path):
        with pytest.raises(ValueError, match="gives no 'val_f1', only loss, val_accuracy"):
            compare({"one": told(FIRST)}, 1, monitor="val_f1", verbose=0)
        with pytest.raises(ValueError, match="at least one entry and one seed"):
            compare({}, 1)
        with pytest.raises(ValueError, match="different whole numbers"):
            compare({"one": told(FIRST)}, [1, 1])
        with pytest.raises(TypeError, match="must be a Recipe or a function of the seed, got 3"):
            compare({"one": 3}, 1)
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match="is no file of results: its columns are a, b"):
            compare({"one": told(FIRST)}, 1, results=tmp_path / "other.csv")
