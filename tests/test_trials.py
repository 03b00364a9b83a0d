"""Trials: the winner runs, gives torch's numbers, and is asked for once."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import pyconvopt as pco
from pyconvopt import plans, trials
from pyconvopt.accelerate import frozen

from .cases import CONV_CASES
from .nn.helpers import assert_same, assert_same_step

CHANNELS_LAST = torch.channels_last
TIMES = {"own": [0.001, 0.002], "other": [0.002, 0.001]}


@pytest.fixture(autouse=True)
def _nothing_remembered():
    trials.forget()
    with pco.settings(trial=True):
        yield
    trials.forget()


@pytest.fixture
def timed(monkeypatch):
    """Counts the trials, of which this library's kernel or the other (``timed.winner``) wins."""

    class Timed:
        winner = "own"
        count = 0

        def seconds(self, candidates):
            self.count += 1
            for run in candidates:
                run()
            return TIMES[self.winner]

    timed = Timed()
    monkeypatch.setattr(trials, "_seconds", timed.seconds)
    return timed


@pytest.fixture
def untimed(monkeypatch):
    def refuse(candidates):
        raise AssertionError("a trial")

    monkeypatch.setattr(trials, "_seconds", refuse)


def maps(*shape):
    return torch.randn(shape).contiguous(memory_format=CHANNELS_LAST)


def kernels(module, x):
    """Kernel and reason of each pass, as `explain` shows them."""
    return {row["pass"]: (row["kernel"], row["reason"]) for row in pco.explain(module, x).rows}


def modules(*arguments, **options):
    ours = pco.nn.Conv2d(*arguments, **options)
    theirs = torch.nn.Conv2d(*arguments, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


class TestWinners:
    @pytest.mark.parametrize("winner", TIMES)
    @pytest.mark.parametrize("case", CONV_CASES, ids=str)
    def test_case_table(self, case, winner, timed):
        timed.winner = winner
        geometry = (case.kernel, case.stride, case.padding, case.dilation, case.groups)
        ours, theirs = modules(case.channels, case.out_channels, *geometry)
        x = maps(case.batch, case.channels, case.height, case.width)
        assert_same_step(ours, theirs, x)
        pairs = (*case.stride, *case.padding, *case.dilation, case.groups)
        for name, (kernel, reason) in kernels(ours, x).items():
            own, _ = plans.own_kernel(name, x.shape, ours.weight.shape, pairs)
            if own == plans.REFERENCE or plans.torch_overruns(ours.weight.shape, case.stride):
                assert not reason.startswith("trial")
            else:
                assert kernel == (own if winner == "own" else "torch")
                assert reason.startswith(f"trial: {own} {1e3 * TIMES[winner][0]:.3g} ms, torch ")

    @pytest.mark.parametrize("winner", TIMES)
    @pytest.mark.parametrize("channels", [3, 16, 32])
    @pytest.mark.parametrize("padding", [0, 1])
    def test_with_a_pool_behind(self, winner, channels, padding, timed):
        timed.winner = winner
        x, w, b = maps(2, channels, 11, 12), torch.randn(16, channels, 3, 3), torch.randn(16)

        def step(function):
            tensors = [t.clone().requires_grad_() for t in (x, w, b)]
            y = function(*tensors)
            y.backward(torch.ones_like(y))
            return [y, *(t.grad for t in tensors)]

        ours = step(
            lambda *a: pco.functional.conv2d_max_pool(*a, padding=padding, activation="relu")
        )
        theirs = step(lambda *a: F.max_pool2d(F.relu(F.conv2d(*a, padding=padding)), 2))
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)

        class Layer(torch.nn.Module):
            def forward(self, x):
                return pco.functional.conv2d_max_pool(x, w, padding=padding, activation="relu")

        row = pco.explain(Layer(), x).rows[0]
        assert (row["op"] == "conv2d_max_pool") == (winner == "own")
        assert ("1 ms, apart 2 ms" if winner == "own" else "2 ms, torch 1 ms") in row["reason"]

    @pytest.mark.parametrize("winner", TIMES)
    def test_transposed(self, winner, timed):
        timed.winner = winner
        ours = pco.nn.ConvTranspose2d(16, 24, 4, stride=2, padding=1)
        theirs = torch.nn.ConvTranspose2d(16, 24, 4, stride=2, padding=1)
        theirs.load_state_dict(ours.state_dict())
        x = maps(2, 16, 7, 7)
        assert_same_step(ours, theirs, x)
        assert timed.count == 3
        if winner == "own":
            assert all("trial: direct" in reason for _, reason in kernels(ours, x).values())

    @pytest.mark.parametrize(
        ("seconds", "chosen"), [((1.0, 0.98), True), ((1.0, 0.96), False)], ids=["near", "far"]
    )
    def test_the_table_is_followed_where_times_are_near(self, seconds, chosen, monkeypatch):
        monkeypatch.setattr(trials, "_seconds", lambda candidates: seconds)
        geometry = ((1, 1), (0, 0), (1, 1), 1)
        winograd = trials.conv_plan((1, 16, 9, 9), (16, 16, 3, 3), *geometry)
        assert (winograd.forward == "winograd_f2x3") == chosen
        monkeypatch.setattr(trials, "_seconds", lambda candidates: seconds[::-1])
        by_torch = trials.conv_plan((1, 16, 9, 9), (16, 16, 7, 7), *geometry)
        assert (by_torch.forward == "torch") == chosen

    @pytest.mark.parametrize("winner", TIMES)
    def test_frozen(self, winner, timed):
        """Without a rule for prepared weights (Winograd, 5×5) a frozen model follows the trial."""
        timed.winner = winner
        model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 16, 5)).eval()
        fast, x = pco.accelerate(model, frozen=True), maps(2, 16, 12, 12)
        with torch.inference_mode():
            for _ in range(3):
                assert_same(fast(x), model(x))
        geometry = ((1, 1), (0, 0), (1, 1), 1)
        for taps in (3, 5):
            shapes = torch.Size((2, 16, 12, 12)), torch.Size((16, 16, taps, taps))
            assert frozen.is_ours(*shapes, geometry, False) == (winner == "own")
        assert timed.count == 3  # 3×3 and 5×5 in the model, and 5×5 for a map of another size

    @pytest.mark.parametrize("case", CONV_CASES, ids=str)
    def test_frozen_case_table(self, case, timed):
        """What torch is faster for by the table has prepared weights too, where a trial says so."""
        geometry = (case.kernel, case.stride, case.padding, case.dilation, case.groups)
        layer = torch.nn.Conv2d(case.channels, case.out_channels, *geometry)
        model = torch.nn.Sequential(layer).eval()
        fast = pco.accelerate(model, frozen=True)
        x = maps(case.batch, case.channels, case.height, case.width)
        with torch.inference_mode():
            for _ in range(3):
                assert_same(fast(x), model(x))

    def test_frozen_with_other_threads(self, timed):
        """Kept sequences are made again for another number of threads, as the winner may be another."""
        model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3)).eval()
        fast, x = pco.accelerate(model, frozen=True), maps(2, 16, 12, 12)
        threads = torch.get_num_threads()
        with torch.inference_mode():
            for number, count in ((threads, 1), (threads + 1, 2), (threads, 2)):
                torch.set_num_threads(number)
                for _ in range(3):
                    assert_same(fast(x), model(x))
                assert timed.count == count


class TestWhenItIsTimed:
    def test_off_by_default_and_without_cost(self, untimed):
        with pco.settings(trial=False):
            layer, x = pco.nn.Conv2d(16, 16, 5), maps(1, 16, 9, 9)
            layer(x.requires_grad_()).sum().backward()
            pco.explain(layer, x)
        code = "import pyconvopt as pco; print(pco.settings.current()['trial'])"
        for environment, value in (({}, "False"), ({"PYCONVOPT_TRIAL": "1"}, "True")):
            kept = {name: v for name, v in os.environ.items() if name != "PYCONVOPT_TRIAL"}
            run = subprocess.run(
                [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
            )
            assert run.stdout.strip() == value, run.stderr

    @pytest.mark.parametrize("value", [1, "yes", None])
    def test_values_that_are_no_bool(self, value):
        with pytest.raises(TypeError, match=f"trial must be a bool, got {value!r}"):
            pco.settings(trial=value)
        assert pco.settings.current()["trial"] is True

    def test_once_for_each_shape_pass_and_number_of_threads(self, timed):
        layer, x = pco.nn.Conv2d(16, 16, 3), maps(2, 16, 9, 9)
        before = torch.get_num_threads()
        steps = [
            (before, x, 3),
            (before, x, 0),
            (before, x[:1], 3),
            (before + 1, x, 3),
            (before, x, 0),
        ]
        for threads, batch, new in steps:
            torch.set_num_threads(threads)
            count = timed.count
            layer(batch)
            assert timed.count - count == new

    def test_once_for_each_instruction_set(self, isa, timed):
        with pco.settings(isa="auto"):
            best = pco.settings.current()["isa"]
        layer, x = pco.nn.Conv2d(16, 16, 3), maps(2, 16, 9, 9)
        for name in (isa, "auto", isa):
            with pco.settings(isa=name):
                layer(x)
        assert timed.count == (3 if isa == best else 6)

    def test_only_what_is_needed(self, timed):
        layer, x = pco.nn.Conv2d(16, 16, 3), maps(2, 16, 9, 9)
        for gradient, count in ((False, 1), (False, 1), (True, 3)):
            with torch.set_grad_enabled(gradient):
                layer(x)
            assert timed.count == count
        pool = pco.functional.conv2d_max_pool
        for gradient, count in ((False, 4), (True, 5)):
            with torch.set_grad_enabled(gradient):
                pool(x, layer.weight)
            assert timed.count == count

    def test_by_one_thread_at_a_time_and_once(self, timed):
        x, w = maps(2, 16, 9, 9), torch.randn(16, 16, 3, 3, requires_grad=True)
        start = threading.Barrier(8)
        results = []

        def call():
            torch.set_num_threads(1)
            start.wait()
            results.append(pco.functional.conv2d(x, w))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert timed.count == 3 and len(results) == 8
        assert all(torch.equal(y, results[0]) for y in results)

    def test_not_while_torch_looks_on(self, untimed):
        layer, x = pco.nn.Conv2d(16, 16, 3), maps(2, 16, 9, 9)
        wanted = F.conv2d(x, layer.weight, layer.bias)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = mode.from_tensor(x)
            assert layer(fake).shape == wanted.shape
        assert pco.functional.conv2d(fake, mode.from_tensor(layer.weight)).shape == wanted.shape
        with FlopCounterMode(display=False):
            assert_same(layer(x), wanted)
        assert_same(torch.compile(layer, backend="eager")(x), wanted)
        assert_same(torch.export.export(layer, (x,)).module()(x), wanted)
        assert_same(torch.jit.trace(layer, x, check_trace=False)(x), wanted)
        assert_same(make_fx(layer)(x)(x), wanted)
        assert_same(torch.vmap(layer)(x.unsqueeze(0))[0], wanted)

    def test_a_filter_whose_gradient_overruns_is_not_run(self, untimed):
        layer = pco.nn.Conv2d(8, 16, 1, stride=2)
        layer(maps(2, 8, 8, 8)).sum().backward()

    def test_leaves_nothing_behind(self, monkeypatch):
        """No graph, no random number, no memory; the types and devices of new tensors do not matter."""
        made, graphs = [], []
        ones, seconds = trials._ones, trials._seconds

        def watched(*shape):
            made.append(weakref.ref(x := ones(*shape)))
            assert x.dtype is torch.float32 and x.is_cpu
            return x

        def outcome(candidates):
            graphs.extend(torch.is_grad_enabled() for _ in candidates)
            return seconds(candidates)

        monkeypatch.setattr(trials, "_ones", watched)
        monkeypatch.setattr(trials, "_seconds", outcome)
        w, x = torch.randn(16, 16, 3, 3, requires_grad=True), maps(2, 16, 9, 9)
        state = torch.get_rng_state()
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        try:
            pco.functional.conv2d_max_pool(x, w)
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
        assert torch.equal(state, torch.get_rng_state())
        assert len(made) == 13 and not any(ref() is not None for ref in made)
        assert graphs and not any(graphs)
        with torch.inference_mode():
            assert pco.functional.conv2d(x[:1], w).is_inference()
        pco.functional.conv2d(x[:1], w).sum().backward()  # what was tried then is of use now

    def test_workers_go_on_while_the_lock_is_held(self):
        class Images(Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                with torch.no_grad():
                    y = pco.functional.conv2d(torch.ones(1, 16, 9, 9), torch.ones(16, 16, 3, 3))
                return y[0], len(trials._results)

        with trials._lock:
            y, known = next(iter(DataLoader(Images(), batch_size=2, num_workers=1, timeout=60)))
        assert known.tolist() == [1, 1] and torch.allclose(y, torch.tensor(144.0))


class TestClock:
    """A clock that each candidate moves on by what it takes."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(trials, "perf_counter", lambda: now[0])

        def candidate(name, log, times):
            times = iter(times)

            def run():
                log.append(name)
                now[0] += next(times)

            return run

        return candidate

    def test_the_least_time_of_runs_in_turns(self, clock):
        log = []
        slow_first = clock("a", log, [1.0, 0.002, 0.001, 0.003, 0.002])
        steady = clock("b", log, [0.0015] * 5)
        assert trials._seconds([slow_first, steady]) == pytest.approx([0.001, 0.0015])
        assert "".join(log) == "ab" * 4  # 8 ms after the first turn

    def test_bounds(self, clock):
        for time, turns in ((0.5, 2), (1e-5, trials.MOST_TURNS)):
            log = []
            trials._seconds([clock("a", log, [time] * 99), clock("b", log, [time] * 99)])
            assert len(log) == 2 * turns

    def test_real_times(self):
        plan = trials.conv_plan((4, 32, 16, 16), (32, 32, 7, 7), (1, 1), (0, 0), (1, 1), 1)
        ((problem, result),) = trials._results.items()
        assert problem.passes == "forward" and problem.threads == torch.get_num_threads()
        assert 0 < result.own < 1 and 0 < result.other < 1
        assert result.chosen == (result.own < trials.MARGIN * result.other)
        assert plan.forward == ("direct" if result.chosen else "torch")


class TestFiles:
    GEOMETRY = ((1, 1), (0, 0), (1, 1), 1)

    def plan(self, batch=1, **options):
        return trials.conv_plan((batch, 16, 9, 9), (16, 16, 7, 7), *self.GEOMETRY, **options)

    @pytest.mark.parametrize("winner", TIMES)
    def test_the_same_choice_again(self, winner, timed, tmp_path):
        timed.winner = winner
        first = self.plan(gradient=True)
        trials.save(tmp_path / "made" / "trials.json")
        trials.forget()
        timed.winner = "own" if winner == "other" else "other"
        assert self.plan().forward != first.forward
        trials.load(tmp_path / "made" / "trials.json")
        count = timed.count
        assert self.plan(gradient=True) == first and timed.count == count
        torch.set_num_threads(torch.get_num_threads() + 1)
        self.plan()
        assert timed.count == count + 1, "other threads"
        assert len(trials._results) == 4

    def test_nothing_known(self, tmp_path):
        trials.save(tmp_path / "none.json")
        trials.load(tmp_path / "none.json")
        assert not trials._results

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text[:-9], "Expecting"),
            (lambda text: "[]", "expected a JSON object"),
            (lambda text: text.replace("trials", "runs"), "expected a JSON object"),
            (lambda text: text.replace('s": 1,', 's": 2,', 1), "expected a JSON object"),
            (lambda text: text.replace("results", "lines"), "'results'"),
            (lambda text: text.replace('"isa"', '"set"'), "entry 0 has not the keys"),
            (lambda text: text.replace("forward", "backward"), "entry 0 is not as saved"),
            (lambda text: text.replace("[16, 16, 7, 7]", "[16, 16, 7]"), "entry 0 is not"),
            (lambda text: text.replace("[16, 16, 7, 7]", '"1677"'), "entry 0 is not"),
            (lambda text: text.replace("16", "16.5"), "entry 0 is not as saved"),
            (lambda text: text.replace("0.001", '"fast"'), "entry 0 is not as saved"),
            (lambda text: text.replace("true", "1"), "entry 0 is not as saved"),
        ],
    )
    def test_other_files_are_refused(self, change, message, timed, tmp_path):
        self.plan()
        path = tmp_path / "trials.json"
        trials.save(path)
        text = path.read_text()
        assert change(text) != text
        path.write_text(change(text))
        known = dict(trials._results)
        with pytest.raises(ValueError, match=message) as error:
            trials.load(path)
        assert str(error.value).startswith(f"{path} holds no results of trials: ")
        assert trials._results == known

    def test_paths_that_cannot_be(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.json"):
            trials.load(tmp_path / "none.json")
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            trials.save(tmp_path / "file" / "trials.json")

    def test_entries_are_readable(self, timed, tmp_path):
        self.plan()
        trials.save(tmp_path / "trials.json")
        (entry,) = json.loads((tmp_path / "trials.json").read_text())["results"]
        assert entry["passes"] == "forward" and entry["kernel"] == "direct"
        assert entry["isa"] == pco.settings.current()["isa"] and math.isclose(entry["own"], 0.001)
