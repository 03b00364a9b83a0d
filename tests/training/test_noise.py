"""What layers draw in `fit`: by its seed, and the same for the batch in parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import layers
from pyconvopt.training import BackupAndRestore, Trainer
from tests.test_draws import KINDS


def data():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(24, 10, generator=generator)
    return x, (x[:, 0] > 0).long()


def model():
    torch.manual_seed(1)
    return nn.Sequential(
        layers.GaussianNoise(0.1), nn.Linear(10, 20), pco.nn.Dropout(0.5), nn.Dropout(0.2),
        pco.nn.DropPath(0.2), nn.Linear(20, 2),
    )  # fmt: skip


def weights(seed=0, batch_size=8, start=1, optimizer="adam", **options):
    trainer = Trainer(model(), optimizer, **options)
    torch.manual_seed(start)
    trainer.fit(data(), 2, batch_size, seed=seed, verbose=0)
    return torch.cat([each.detach().flatten() for each in trainer.model.parameters()])


def test_the_seed_of_fit_repeats_it():
    first = weights(seed=0, start=1)
    assert torch.equal(weights(seed=0, start=2), first)
    assert not torch.equal(weights(seed=1, start=1), first)
    unseeded = weights(seed=None, start=1)
    assert torch.equal(weights(seed=None, start=1), unseeded)
    assert not torch.equal(weights(seed=None, start=2), unseeded)


def test_a_second_fit_draws_anew_and_torchs_generator_is_left():
    seen = []
    layer = pco.nn.Dropout(0.5)
    layer.register_forward_hook(lambda module, given, y: seen.append(y == 0))
    # The guard would look at the last update's loss too.
    trainer = Trainer(nn.Sequential(nn.Linear(10, 20), layer, nn.Linear(20, 2)), guard=False)
    state = torch.get_rng_state()
    for _ in range(2):
        trainer.fit(data(), 1, 24, seed=0, shuffle=False, verbose=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(*seen)
    trainer.model(data()[0]), trainer.model(data()[0])
    assert not torch.equal(*seen[2:])  # outside of fit torch's generator goes on


def test_both_passes_of_sam_see_the_same_masks():
    seen = []
    parts = model()
    for layer in (parts[2], parts[3]):  # this library's and torch's
        layer.register_forward_hook(lambda module, given, y: seen.append(y == 0))
    trainer = Trainer(parts, {"name": "sam", "config": {"lr": 0.05}}, guard=False)
    trainer.fit(data(), 1, 24, seed=0, verbose=0)
    one, two, again, both = seen
    assert torch.equal(one, again) and torch.equal(two, both) and not torch.equal(one, two)


def test_a_run_taken_up_again_keeps_its_seed(tmp_path):
    pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

    def trained(*stages):
        for start, epochs in stages:
            trainer = Trainer(model())
            torch.manual_seed(start)
            kept = BackupAndRestore(tmp_path / str(len(stages)), delete_checkpoint=False)
            trainer.fit(data(), epochs, 8, verbose=0, checkpoint=kept)
        return torch.cat([each.detach().flatten() for each in trainer.model.parameters()])

    assert torch.equal(trained((1, 1), (2, 2)), trained((1, 2)))


@pytest.mark.parametrize("kind", ["dropout", "path", "gaussian noise", "alpha"])
def test_accumulated_batches_are_the_joined_batch(kind):
    def trained(batch_size, accumulate):
        torch.manual_seed(1)
        parts = nn.Sequential(nn.Linear(10, 20), KINDS[kind](), nn.Linear(20, 2)).double()
        Trainer(parts, "sgd", learning_rate=0.1, accumulate=accumulate).fit(
            data(), 3, batch_size, seed=0, verbose=0
        )
        return torch.cat([each.detach().flatten() for each in parts.parameters()])

    torch.testing.assert_close(trained(8, 3), trained(24, 1))
