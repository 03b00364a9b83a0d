"""DropBlock, stochastic depth, scheduled and Monte-Carlo dropout."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt import layers, models
from pyconvopt.draws import draw_seed, drawing


class TestDropBlock:
    def test_zeroes_whole_blocks_and_about_their_share(self):
        x = torch.ones(64, 8, 20, 20)
        y = pco.nn.DropBlock2d(0.2, block_size=5)(x)
        dropped = (y == 0).float()
        # Blocks overlap: each of 25 possible corners covers an inner pixel with probability
        # 0.2 / 25 · 400 / 256; the edges are covered less, so the share lies below 0.2.
        assert 0.15 < dropped.mean() < 0.2
        # Every zero lies in a 5×5 block of zeros: opening the mask changes nothing.
        eroded = 1 - F.max_pool2d(1 - dropped, 5, 1)
        opened = F.max_pool2d(F.pad(eroded, (4, 4, 4, 4)), 5, 1)
        assert torch.equal(opened, dropped)
        assert y.mean().item() == pytest.approx(1.0, rel=1e-5)
        assert y.unique().numel() == 2

    def test_the_chance_of_a_pixel(self):
        """One block fits in one place: it falls with γ = p / b² · H·W / 1 = p."""
        layer = pco.nn.DropBlock2d(0.3, block_size=6)
        whole = layer(torch.ones(100, 40, 6, 6)).flatten(2)
        assert torch.equal(whole.amin(2), whole.amax(2))
        assert (whole[..., 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
        larger = pco.nn.DropBlock2d(0.3, block_size=60)(torch.ones(100, 40, 6, 6)).flatten(2)
        assert torch.equal(larger.amin(2), larger.amax(2))

    def test_gradient_is_the_mask(self):
        x = torch.randn(2, 3, 9, 9, requires_grad=True)
        y = pco.nn.DropBlock2d(0.3, 3)(x)
        y.sum().backward()
        torch.testing.assert_close(x.grad * x.detach(), y.detach())


class TestDropPath:
    def test_drops_samples_and_keeps_the_mean(self):
        y = pco.nn.DropPath(0.25)(torch.ones(4000, 2, 1, 1))
        assert torch.equal(y[:, 0], y[:, 1])
        assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.035)
        unscaled = pco.nn.DropPath(0.25, scale_by_keep=False)(torch.ones(100, 2))
        assert unscaled.unique().tolist() == [0.0, 1.0]
        assert not pco.nn.DropPath(1.0)(torch.ones(9, 2)).any()


class TestScheduled:
    def test_rises_and_stays(self):
        layer = pco.nn.ScheduledDropout(0.8, steps=4)
        shares = [(layer(torch.ones(20000)) == 0).float().mean().item() for _ in range(6)]
        assert shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8], abs=0.02)

    def test_a_function_of_the_step(self):
        layer = pco.nn.ScheduledDropout(lambda step: 0.5 if step == 1 else 0.0)
        shares = [(layer(torch.ones(20000)) == 0).float().mean().item() for _ in range(3)]
        assert shares == pytest.approx([0, 0.5, 0], abs=0.02)
        with pytest.raises(ValueError, match=r"must lie in 0 ... 1, got 1.5 at step 0"):
            pco.nn.ScheduledDropout(lambda step: 1.5)(torch.ones(2))

    def test_the_count_is_saved_and_evaluation_does_not_count(self):
        layer = pco.nn.ScheduledDropout(0.5, steps=10)
        x = torch.ones(4)
        for _ in range(3):
            layer(x)
        assert torch.equal(layer.eval()(x), x)
        with torch.no_grad():
            layer.train()(x)
        other = pco.nn.ScheduledDropout(0.5, steps=10)
        other.load_state_dict(layer.state_dict())
        assert other.step == 3 and other.probability() == pytest.approx(0.15)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pco.nn.DropBlock2d(0.4, 3),
        lambda: pco.nn.DropPath(0.4),
        lambda: pco.nn.ScheduledDropout(0.4),
        lambda: layers.GaussianDropout(0.4),
        lambda: layers.GaussianNoise(0.4),
        lambda: layers.AlphaDropout(0.4),
    ],
)
def test_masks_follow_torchs_seed_and_evaluation_does_nothing(make):
    layer, x = make(), torch.randn(16, 4, 8, 8)
    torch.manual_seed(3)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(3)
    assert torch.equal(make()(x), first) and not torch.equal(first, second)
    assert torch.equal(layer.eval()(x), x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == repr(layer)


def test_in_place():
    for layer in (pco.nn.DropBlock2d(0.4, 3, inplace=True), pco.nn.DropPath(0.4, inplace=True)):
        x = torch.ones(16, 4, 8, 8)
        assert layer(x) is x and (x == 0).any()


class TestMonteCarlo:
    def model(self):
        return torch.nn.Sequential(
            torch.nn.Linear(3, 50),
            torch.nn.BatchNorm1d(50),
            pco.nn.Dropout(0.5),
            torch.nn.Linear(50, 1),
        )

    def test_only_dropout_is_in_training_and_modes_come_back(self):
        model = self.model()
        model[1].eval()
        with pco.nn.monte_carlo_dropout(model):
            assert [module.training for module in model] == [False, False, True, False]
            statistics = model[1].running_mean.clone()
            assert not torch.equal(model(torch.ones(2, 3)), model(torch.ones(2, 3)))
        assert [module.training for module in model] == [True, False, True, True]
        assert torch.equal(statistics, model[1].running_mean)
        with pytest.raises(ValueError, match="the model has no dropout"), \
                pco.nn.monte_carlo_dropout(torch.nn.Linear(1, 1)):  # fmt: skip
            pass

    def test_mean_and_spread_of_dropout_alone(self):
        """Dropout of ones: each output is 0 or 1 / (1 - p), mean 1, deviation √(p / (1 - p))."""
        model = torch.nn.Sequential(torch.nn.Identity(), pco.nn.Dropout(0.2))
        mean, spread = pco.nn.monte_carlo_predict(model, np.ones((7, 100)), 400, batch_size=3)
        assert mean.shape == spread.shape == (7, 100)
        assert mean.mean() == pytest.approx(1.0, abs=0.01)
        assert spread.mean() == pytest.approx(0.5, abs=0.01)

    def test_the_spread_is_that_of_the_passes(self):
        model = self.model()
        x = torch.randn(4, 3)
        torch.manual_seed(1)
        mean, spread = pco.nn.monte_carlo_predict(model, x, samples=5)
        torch.manual_seed(1)
        seed, passes = draw_seed(), []
        with pco.nn.monte_carlo_dropout(model), torch.no_grad():
            for number in range(5):
                with drawing(seed, number, 0):
                    passes.append(model(x).numpy())
        passes = np.stack(passes)
        np.testing.assert_allclose(mean, passes.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(spread, passes.std(0, ddof=1), rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match="samples must be a whole number >= 2, got 1"):
            pco.nn.monte_carlo_predict(model, x, samples=1)

    def test_the_batch_size_does_not_matter(self):
        model = self.model()
        x = torch.randn(600, 3)
        results = []
        for batch_size in (1, 7, 256, 600):
            torch.manual_seed(1)
            results.append(pco.nn.monte_carlo_predict(model, x, 10, batch_size))
        for mean, spread in results[1:]:
            np.testing.assert_array_equal(mean, results[0][0])
            np.testing.assert_array_equal(spread, results[0][1])

    def test_a_frozen_model(self):
        frozen = pco.accelerate(self.model().eval(), frozen=True)
        with pytest.raises(ValueError, match=r"frozen=True, which leaves its dropout out"):
            pco.nn.monte_carlo_predict(frozen, torch.randn(4, 3))
        mean, spread = pco.nn.monte_carlo_predict(pco.accelerate(self.model()), torch.randn(4, 3))
        assert mean.shape == (4, 1) and spread.min() > 0

    def test_predict_of_a_sequential(self):
        model = models.Sequential([layers.Dense(4, input_shape=(3,)), layers.Dropout(0.5)])
        x = torch.randn(6, 3)
        torch.manual_seed(1)
        got = model.predict(x, samples=5)
        torch.manual_seed(1)
        for ours, wanted in zip(got, pco.nn.monte_carlo_predict(model, x, 5), strict=True):
            np.testing.assert_array_equal(ours, wanted)

    def test_sequential_with_joined_layers(self):
        model = models.Sequential(
            [
                layers.Conv2D(16, 3, input_shape=(8, 8, 1)),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.5),
                layers.SpatialDropout2D(0.5),
                layers.GlobalAveragePooling2D(),
            ]
        )
        x = torch.randn(4, 8, 8, 1)
        plain = model.predict(x)
        mean, spread = pco.nn.monte_carlo_predict(model, x, samples=300)
        assert spread.mean() > 0.05
        np.testing.assert_allclose(mean, plain, atol=0.2)
        assert model.layers[1].running_mean.abs().max() == 0


def test_refusals():
    with pytest.raises(ValueError, match="between 0 and 1"):
        pco.nn.DropPath(1.5)
    with pytest.raises(ValueError, match="block_size must be a whole number >= 1, got 0"):
        pco.nn.DropBlock2d(0.1, 0)
    with pytest.raises(ValueError, match="expected a 4D input"):
        pco.nn.DropBlock2d()(torch.ones(2, 3))
    with pytest.raises(ValueError, match="steps belongs to a probability"):
        pco.nn.ScheduledDropout(lambda step: 0.1, steps=3)


@pytest.mark.parametrize("shape", [(2, 16, 0, 8), (2, 16, 8, 0), (0, 16, 8, 8), (2, 0, 8, 8)])
@pytest.mark.parametrize("inplace", [False, True])
def test_empty_maps_stay_empty(shape, inplace):
    assert pco.nn.DropBlock2d(0.5, inplace=inplace)(torch.zeros(shape)).shape == shape
    assert pco.nn.DropPath(0.5, inplace=inplace)(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("training", [True, False])
def test_drop_path_wants_samples(training):
    with pytest.raises(ValueError, match=r"expected an input of samples \(N, ...\)"):
        pco.nn.DropPath(0.5).train(training)(torch.tensor(1.0))
