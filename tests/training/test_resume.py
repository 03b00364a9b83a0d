"""A killed run that is started again ends with the bits of one that was not."""

from __future__ import annotations

import errno
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from safetensors.torch import load_file

from pyconvopt import files
from pyconvopt.training import (
    BackupAndRestore,
    Callback,
    CheckpointFolder,
    LambdaCallback,
    ReduceLROnPlateau,
    Terminated,
    Trainer,
    guard,
)
from pyconvopt.training.processes import Processes
from tests.training.resumable import BATCHES, EPOCHS, KillAt, images, process, trainer

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run of that kind ends with if nothing happens to it."""
    known: dict[tuple, dict[str, torch.Tensor]] = {}
    base = tmp_path_factory.mktemp("undisturbed")

    def result(**kind) -> dict[str, torch.Tensor]:
        key = tuple(sorted(kind.items()))
        if key not in known:
            path = base / f"{len(known)}.safetensors"
            assert process(str(base / f"folder{len(known)}"), str(path), **kind) == 0
            known[key] = load_file(path)
        return known[key]

    return result


def same(got: Path, wanted: dict[str, torch.Tensor]) -> None:
    found = load_file(got)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


class TestKilled:
    @pytest.mark.parametrize(
        "data",
        [
            *("arrays", "steps", "loader", "own order", "sampler's order", "batch sampler's order"),
            *("dataset", "function", "generator"),
        ],
    )
    def test_after_any_batch(self, tmp_path, undisturbed, data):
        """One run killed six times: at a first batch, within, at the last, between epochs."""
        folder, result = str(tmp_path / "backup"), tmp_path / "result"
        last = 2 if data in ("function", "steps") else BATCHES - 1
        for place in ((0, 0), (0, 1), (1, last), (1, -1), (2, 0), (2, -1)):
            code = process(folder, str(result), data=data, every=1, death=("at", *place))
            assert code == KILLED, place
        assert not result.exists()
        assert process(folder, str(result), data=data, every=1) == 0
        same(result, undisturbed(data=data))

    @pytest.mark.parametrize("every", ["epoch", 3, "time"])
    def test_with_rarer_backups(self, tmp_path, undisturbed, every):
        folder, result = str(tmp_path / "backup"), tmp_path / "result"
        for place in ((1, 1), (2, 2)):
            assert process(folder, str(result), every=every, death=("at", *place)) == KILLED
        assert process(folder, str(result), every=every) == 0
        same(result, undisturbed())

    @pytest.mark.parametrize("stage", ["in the middle", "before the rename", "after the rename"])
    def test_in_a_write(self, tmp_path, undisturbed, stage):
        folder, result = tmp_path / "backup", tmp_path / "result"
        for which in (1, 2, 4):
            assert process(str(folder), str(result), death=(stage, which)) == KILLED
        assert process(str(folder), str(result)) == 0
        same(result, undisturbed())
        assert len(list(folder.iterdir())) == 2  # the two newest, and nothing half written

    def test_a_rate_that_a_callback_sets_is_set_once(self, tmp_path, undisturbed):
        folder, result = str(tmp_path / "backup"), tmp_path / "result"
        assert process(folder, str(result), rate="callback", death=("at", 1, 1)) == KILLED
        assert process(folder, str(result), rate="callback") == 0
        same(result, undisturbed(rate="callback"))

    def test_gradients_that_wait(self, tmp_path, undisturbed):
        folder, result = str(tmp_path / "backup"), tmp_path / "result"
        for place in ((0, 2), (1, 1)):
            assert process(folder, str(result), accumulate=3, death=("at", *place)) == KILLED
        assert process(folder, str(result), accumulate=3) == 0
        same(result, undisturbed(accumulate=3))

    def test_a_metric_that_keeps_its_batches(self, tmp_path, undisturbed):
        pytest.importorskip("torchmetrics", reason="its AUROC keeps every batch")
        folder, result = str(tmp_path / "backup"), tmp_path / "result"
        for place in ((0, 2), (1, 1)):
            assert process(folder, str(result), auroc=True, death=("at", *place)) == KILLED
        assert process(folder, str(result), auroc=True) == 0
        same(result, undisturbed(auroc=True))

    @pytest.mark.parametrize("place", [(1, 1), (1, -1)])
    def test_sigterm_saves_and_leaves(self, tmp_path, undisturbed, place):
        folder, result = tmp_path / "backup", tmp_path / "result"
        death = ("at", *place, signal.SIGTERM)
        assert process(str(folder), str(result), every=10**6, death=death) == 143
        assert not result.exists()
        assert len(CheckpointFolder(folder).found()) == 1
        assert process(str(folder), str(result), every=10**6) == 0
        same(result, undisturbed())

    def test_sigterm_says_what_it_did(self, tmp_path, capsys):
        with pytest.raises(Terminated) as caught:
            fit(tmp_path, callbacks=[KillAt(0, 1, signal.SIGTERM)], every=1)
        assert caught.value.code == 143
        said = capsys.readouterr().err
        assert said.startswith(
            f"ended by SIGTERM after step 2, saved in {tmp_path}; start it again"
        )
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_sigterm_while_the_processes_confer(self, tmp_path, monkeypatch):
        """The answer to a question asked before it came must not undo it."""
        real, calls = Processes.any, [0]

        def late(self, flag):
            calls[0] += 1
            if calls[0] == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, flag)

        monkeypatch.setattr(Processes, "any", late)
        with pytest.raises(Terminated, match=r"after step [234],"):
            fit(tmp_path)

    def test_a_finished_run_comes_back_at_once(self, tmp_path, undisturbed):
        folder, result = str(tmp_path / "backup"), tmp_path / "result"
        assert process(folder, str(result)) == 0
        result.unlink()
        assert process(folder, str(result), death=("at", 0, 0)) == 0  # no batch is run
        same(result, undisturbed())


def fit(folder, epochs=2, chosen: Trainer | None = None, data=None, **options):
    chosen = chosen or trainer()
    history = chosen.fit(
        data or images(),
        epochs=epochs,
        batch_size=8,
        seed=3,
        checkpoint=folder,
        **({"verbose": 0} | options),
    )
    return chosen, history


class Stumble(Callback):
    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            raise RuntimeError("stumbled")


def weights(chosen: Trainer) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in chosen.model.parameters()])


class TestDamage:
    def test_a_damaged_file_falls_back_to_the_one_before(self, tmp_path):
        wanted, _ = fit(tmp_path / "whole", every=1)
        fit(tmp_path / "damaged", every=1)
        newest = CheckpointFolder(tmp_path / "damaged").found()[0]
        content = bytearray(newest.path.read_bytes())
        content[len(content) // 2] ^= 1
        newest.path.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged: its checksum is .*; going on from the o"):
            got, history = fit(tmp_path / "damaged", every=1)
        assert torch.equal(weights(got), weights(wanted)) and history.epoch == [0, 1]

    def test_all_damaged_is_an_error(self, tmp_path):
        fit(tmp_path)
        for file in CheckpointFolder(tmp_path).found():
            file.path.write_bytes(file.path.read_bytes()[:-9])
        with (
            pytest.warns(UserWarning, match="damaged"),
            pytest.raises(ValueError, match="remove the folder to start the run anew"),
        ):
            fit(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"chosen": lambda: trainer(classes=3)}, "another model: for dense.*shape"),
            ({"chosen": lambda: trainer(metrics=[])}, "counts loss, accuracy, this run loss"),
            ({"data": lambda: tuple(each[:24] for each in images())}, "samples was 30, now it is"),
        ],
    )
    def test_another_run_is_an_error(self, tmp_path, change, message):
        fit(tmp_path)
        given = {name: make() for name, make in change.items()}
        chosen = given.setdefault("chosen", trainer())
        before = weights(chosen)
        with pytest.raises(ValueError, match=message) as caught:
            fit(tmp_path, **given)
        assert "\n" not in str(caught.value) and torch.equal(weights(chosen), before)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_an_order_from_elsewhere_is_an_error(self, tmp_path):
        of = TensorDataset(*images())
        fit(tmp_path, data=DataLoader(of, 8, shuffle=True))
        message = "came from 0 generators of their own, now it comes from 1"
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, data=DataLoader(of, 8, shuffle=True, generator=torch.Generator()))

    def test_another_optimiser_is_an_error(self, tmp_path):
        fit(tmp_path)
        other = trainer()
        other.optimizer_spec = "sgd"
        with pytest.raises(ValueError, match="of a run with Adam, this one has SGD"):
            fit(tmp_path, chosen=other)

    def test_another_model_of_the_same_shapes_is_an_error(self, tmp_path):
        def of(activation):
            return Trainer(nn.Sequential(nn.Linear(4, 3), activation, nn.Linear(3, 2)))

        x, y = images()
        given = {"data": (x.flatten(1)[:, :4], y)}
        fit(tmp_path, chosen=of(nn.ReLU()), **given)
        for other, now in (
            (nn.Tanh(), r"Tanh\(\)"),
            (nn.Sequential(nn.ReLU()), r"Sequential\(\)"),
        ):
            with pytest.raises(
                ValueError, match=rf"another model: 1 was ReLU\(\), now it is {now}"
            ):
                fit(tmp_path, chosen=of(other), **given)
        fit(tmp_path, epochs=3, chosen=of(nn.ReLU()), **given)

    def test_other_settings_of_the_optimiser_are_told(self, tmp_path):
        def of(rate):
            return trainer(schedule=None, learning_rate=rate)

        fit(tmp_path, 1, of(0.01))
        for epochs in (2, 3):  # the second time from the checkpoint of a run that was told
            with pytest.warns(UserWarning, match=r"settings of its checkpoint: lr 0.01, not 0.5$"):
                got, _ = fit(tmp_path, epochs, of(0.5))
            assert got.rate == 0.01

    def test_rates_that_were_set_are_no_other_settings(self, tmp_path, recwarn):
        def of():
            reduce = ReduceLROnPlateau("loss", patience=0, min_delta=10)
            return trainer(schedule=None, callbacks=[reduce])

        fit(tmp_path, 3, of())
        got, _ = fit(tmp_path, 4, of())
        assert got.rate < 0.001 and not recwarn.list

    def test_older_checkpoints_do_not_say(self, tmp_path):
        fit(tmp_path, 1)
        folder = CheckpointFolder(tmp_path)
        older = folder.latest()
        del older["structure"], older["optimizer"]["settings"]
        folder.clear()
        folder.save(4, older)
        assert fit(tmp_path, 2)[1].epoch == [0, 1]

    def test_persistent_workers_are_told(self, tmp_path):
        loader = DataLoader(TensorDataset(*images()), 8, num_workers=1, persistent_workers=True)
        with pytest.warns(UserWarning, match="persistent_workers=True keep random states"):
            fit(tmp_path, 0, data=loader)

    def test_a_full_disk_leaves_the_older_ones(self, tmp_path, monkeypatch):
        wanted, _ = fit(tmp_path / "whole", epochs=3)
        real, count = os.fsync, [0]

        def full(handle):
            count[0] += 1
            if count[0] > 4:  # two for each checkpoint: the file, and the folder
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.warns(UserWarning, match="step 12 .*No space left on device: .*step-00000012"):
            got, _ = fit(tmp_path / "full", epochs=3)
        monkeypatch.undo()
        assert torch.equal(weights(got), weights(wanted))
        names = [each.step for each in CheckpointFolder(tmp_path / "full").found()]
        assert names == [8, 4] and len(list((tmp_path / "full").iterdir())) == 2
        again, _ = fit(tmp_path / "full", epochs=3)
        assert torch.equal(weights(again), weights(wanted))

    def test_what_no_file_can_hold(self, tmp_path):
        with pytest.raises(TypeError, match=r"cannot hold state\.thing, a object"):
            CheckpointFolder(tmp_path).save(1, {"thing": object()})
        assert not list(tmp_path.iterdir())


class TestState:
    def test_values_come_back_as_they_were(self, tmp_path):
        last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
        state = {
            "numbers": [1, 0.1, float("inf"), True, None, "text"],
            5: (last, last.half(), torch.tensor(7), torch.zeros(0, 3), last[:, :, ::2]),
            "moved": last.permute(3, 0, 2, 1),
        }
        CheckpointFolder(tmp_path).save(3, state)
        got = CheckpointFolder(tmp_path).latest()
        assert got["numbers"] == state["numbers"]
        for mine, theirs in zip((*got[5], got["moved"]), (*state[5], state["moved"]), strict=True):
            assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype
        assert got[5][0].stride() == last.stride()
        assert got["moved"].stride() == state["moved"].stride()

    def test_a_run_can_be_made_longer(self, tmp_path):
        wanted, _ = fit(tmp_path / "whole", epochs=EPOCHS)
        fit(tmp_path / "longer", epochs=1)
        got, history = fit(tmp_path / "longer", epochs=EPOCHS)
        assert torch.equal(weights(got), weights(wanted)) and history.epoch == [0, 1, 2]

    def test_backup_and_restore_cleans_up_after_a_run_that_ends(self, tmp_path):
        folder = tmp_path / "backup"
        fit(BackupAndRestore(folder), epochs=1)
        assert not folder.exists()

        def stumble(epoch, logs):
            raise RuntimeError("stumbled")

        with pytest.raises(RuntimeError, match="stumbled"):
            fit(
                BackupAndRestore(folder, save_freq=1),
                callbacks=[LambdaCallback(on_epoch_end=stumble)],
            )
        assert len(CheckpointFolder(folder).found()) == 2

    def test_a_run_that_failed_stays_failed(self, tmp_path):
        def explodes():
            return trainer(schedule=lambda step: 1e300 if step == 2 else 0.01)

        with pytest.warns(UserWarning, match="the loss is nan"):
            first, _ = fit(tmp_path, chosen=explodes())
        again, history = fit(tmp_path, chosen=explodes())
        assert again.failure == first.failure and history.epoch == [0]
        assert torch.equal(weights(again), weights(first))

    def test_a_new_callback_starts_anew_and_says_so(self, tmp_path):
        from pyconvopt.training import EarlyStopping

        fit(tmp_path, epochs=1)
        with pytest.warns(UserWarning, match="knows nothing of EarlyStopping: what"):
            fit(tmp_path, epochs=2, callbacks=[EarlyStopping("loss")])

    def test_a_callback_that_prepares_itself_later_may_be_new(self, tmp_path):
        class Late(Callback):
            remembers = ("count",)

            def on_epoch_begin(self, epoch, logs=None):
                self.count = 0

        fit(tmp_path, epochs=1)
        with pytest.warns(UserWarning, match="knows nothing of Late"):
            fit(tmp_path, epochs=2, callbacks=[Late()])

    @pytest.mark.parametrize("every", ["epoch", 3])
    def test_the_display_may_come_and_go(self, tmp_path, recwarn, capsys, every):
        with pytest.raises(RuntimeError, match="stumbled"):
            fit(tmp_path, epochs=3, every=every, callbacks=[Stumble(1, 3)])
        _, history = fit(tmp_path, epochs=3, every=every, verbose=2)
        assert history.epoch == [0, 1, 2] and "epoch 3/3" in capsys.readouterr().out
        assert not recwarn.list

    @pytest.mark.parametrize("every", [0, 1.5, True, "batch"])
    def test_refused_frequencies(self, tmp_path, every):
        with pytest.raises(ValueError, match="how often to save must be"):
            fit(tmp_path, every=every)

    def test_no_warning_in_a_plain_run(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(tmp_path, epochs=1)
            fit(tmp_path, epochs=2)


class TestGuard:
    """A run that is taken up again and then fails comes back to the weights of an undisturbed one."""

    @pytest.fixture(autouse=True)
    def frequent_copies(self, monkeypatch):
        monkeypatch.setattr(guard, "STEPS_BETWEEN_COPIES", 3)
        monkeypatch.setattr(guard, "STEPS_TO_CONFIRM", 2)

    def failing(self, folder, stumble: int | None = None) -> Trainer:
        """Fails at step 7 of 8; the good copy is then of step 3, which counts from step 5 on."""
        chosen = trainer(schedule=lambda step: 1e300 if step == 6 else 0.01)
        callbacks = [] if stumble is None else [Stumble(*divmod(stumble, BATCHES))]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="the loss is nan")
                fit(folder, chosen=chosen, callbacks=callbacks, every=1)
        except RuntimeError:
            return self.failing(folder)
        assert chosen.failure is not None
        return chosen

    @pytest.mark.parametrize("stumble", range(7))
    def test_the_weights_that_come_back(self, tmp_path, stumble):
        wanted = self.failing(tmp_path / "whole")
        assert wanted.failure.endswith("the weights of step 3")
        got = self.failing(tmp_path / "resumed", stumble)
        assert got.failure == wanted.failure
        for name, value in wanted.model.state_dict().items():
            assert torch.equal(got.model.state_dict()[name], value), name

    def test_that_was_not_there_before(self, tmp_path):
        fit(tmp_path, epochs=1, chosen=trainer(guard=False))
        chosen, _ = fit(tmp_path, chosen=trainer())
        assert chosen.guard.good.step == BATCHES and chosen.failure is None
