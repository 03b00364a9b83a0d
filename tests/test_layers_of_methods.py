"""The layers of the newer methods: what their modules of `pyconvopt.nn` give, inside a Sequential."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import pyconvopt as pco
from pyconvopt import layers, models, schedules
from pyconvopt.models.export import program
from pyconvopt.training.recipes import Recipe


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (layers.DropBlock2D(0.3, 3), pco.nn.DropBlock2d(0.3, 3)),
        (layers.DropPath(0.3), pco.nn.DropPath(0.3)),
        (layers.ScheduledDropout(0.3), pco.nn.ScheduledDropout(0.3)),
        (layers.GhostBatchNormalization(4, momentum=0.9), None),
        (layers.BatchRenormalization(2.0, 1.0, momentum=0.9), None),
        (layers.FilterResponseNormalization(), pco.nn.FilterResponseNorm2d(3)),
        (
            layers.FilterResponseNormalization(1e-3, learned_epsilon=True, tlu=False),
            pco.nn.FilterResponseNorm2d(3, 1e-3, learned_eps=True, tlu=False),
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_as_the_module(layer, module):
    if isinstance(layer, layers.GhostBatchNormalization):
        module = pco.nn.GhostBatchNorm2d(3, 4, eps=1e-3)
    if isinstance(layer, layers.BatchRenormalization):
        module = pco.nn.BatchRenorm2d(3, eps=1e-3, r_max=2.0, d_max=1.0)
    for step in range(3):
        x = images(9, 3, 8, 8) * (step + 1) + step
        torch.manual_seed(step)
        got = layer(x)
        torch.manual_seed(step)
        wanted = module(x)
        # Torch's moving variance is the unbiased one, which the correction of later steps reads.
        torch.testing.assert_close(got, wanted, rtol=0, atol=3e-2 if step else 1e-5)
    if hasattr(module, "running_mean"):
        torch.testing.assert_close(layer.running_mean, module.running_mean)
        torch.testing.assert_close(layer.running_var, module.running_var, rtol=3e-2, atol=0)
    layer.eval(), module.eval()
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(layer(x), module(x), rtol=0, atol=3e-2)


class TestGhostBatchNormalization:
    def test_moving_variance_is_kerass(self):
        layer = layers.GhostBatchNormalization(2, momentum=0.5)
        layer(torch.tensor([[1.0], [3.0], [0.0], [4.0]]))  # variances 1 and 4, means 2 and 2
        assert layer.running_var.item() == pytest.approx(0.5 * (0.5 * 1 + 0.5 * 1) + 0.5 * 4)
        assert layer.running_mean.item() == pytest.approx(0.5 * 1 + 0.5 * 2)

    def test_frozen_it_is_not_cut(self):
        layer = layers.GhostBatchNormalization(2)
        layer.build((None, 1))
        layer.trainable = False
        x = torch.tensor([[1.0], [3.0], [0.0]])
        torch.testing.assert_close(layer(x), x / (1 + 1e-3) ** 0.5)

    def test_refusal(self):
        with pytest.raises(ValueError, match="ghost_size must be a whole number >= 1, got 0"):
            layers.GhostBatchNormalization(0)


class TestBatchRenormalization:
    def test_tight_bounds_are_batch_normalization(self):
        for shape in ((6, 3, 4, 4), (6, 3)):
            ours, plain = layers.BatchRenormalization(1, 0), layers.BatchNormalization()
            x = images(*shape) * 2 + 1
            torch.testing.assert_close(ours(x), plain(x))
            torch.testing.assert_close(ours.running_var, plain.running_var)

    def test_bounds_follow_the_batches_and_a_schedule_is_saved(self):
        layer = layers.BatchRenormalization(
            r_max=schedules.Polynomial(1.0, n=2, end=3.0), d_max=lambda step: 0.0
        )
        x = torch.tensor([[0.0], [20.0]])  # deviation 10 times the moving one
        got = [layer(x).detach().std(correction=0).item() for _ in range(2)]
        assert got[0] == pytest.approx(1, rel=1e-3)
        assert got[1] == pytest.approx(2, rel=1e-3)
        with pytest.raises(ValueError, match="cannot be saved"):
            layer.get_config()
        layer.d_max = schedules.Constant(0.0)
        again = layers.BatchRenormalization(**json.loads(json.dumps(layer.get_config())))
        assert again.r_max == layer.r_max

    def test_refusal(self):
        with pytest.raises(ValueError, match="r_max must be 1 or more"):
            layers.BatchRenormalization(r_max=0.5)


def test_weight_standardization():
    layer = layers.Conv2D(8, 3, activation="relu", weight_standardization=True)
    x = images(2, 4, 6, 6)
    got = layer(x)
    module = pco.nn.WeightStandardizedConv2d(4, 8, 3)
    module.load_state_dict(layer.state_dict())
    torch.testing.assert_close(got, module(x).relu())
    # In front of a pool it is joined with it.
    model = models.Sequential([layer, layers.MaxPooling2D(2)])
    wanted = torch.nn.functional.max_pool2d(module(x).relu(), 2)
    torch.testing.assert_close(model(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), wanted)


def test_scheduled_dropout_goes_on_after_loading(tmp_path):
    model = models.Sequential(
        [
            layers.Dense(4, input_shape=(3,)),
            layers.ScheduledDropout(schedules.Polynomial(0.0, n=4, end=0.8)),
            layers.Dense(2),
        ]
    )
    model.train()
    for _ in range(2):
        model(torch.ones(5, 3))
    model.save(tmp_path / "m")
    again = models.load(tmp_path / "m").layers[1]
    assert again.scheduled.probability() == pytest.approx(0.4)
    assert again.count_params() == 0


class TestResidual:
    def block(self, **options):
        return layers.Residual(
            [
                layers.Conv2D(4, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.DropPath(0.5),
            ],
            **options,
        )

    def test_the_sum_and_stochastic_depth(self):
        block = self.block()
        x = images(16, 4, 6, 6)
        y = block(x)
        alone = [bool((a == b).all()) for a, b in zip(x, y, strict=True)]
        assert 0 < sum(alone) < 16
        block.eval()
        branch = x
        for layer in block.layers:
            branch = layer(branch)
        torch.testing.assert_close(block(x), x + branch, rtol=1e-4, atol=1e-5)

    def test_shortcut_shapes_and_counts(self):
        block = layers.Residual(
            [layers.Conv2D(8, 3, 2, padding="same")], [layers.Conv2D(8, 1, 2, use_bias=False)]
        )
        block.build((None, 6, 6, 4))
        assert block.output_shape == (None, 3, 3, 8)
        assert block.count_params() == 3 * 3 * 4 * 8 + 8 + 4 * 8
        assert block.flops() == sum(layer.flops() for layer in block.parts()) + 3 * 3 * 8
        with pytest.raises(ValueError, match=r"cannot add \(N, 3, 3, 8\).* to \(N, 6, 6, 4\)"):
            layers.Residual([layers.Conv2D(8, 3, 2, padding="same")]).build((None, 6, 6, 4))

    def test_trained_saved_and_frozen(self, tmp_path):
        model = models.Sequential([self.block(input_shape=(6, 6, 4)), layers.Flatten()])
        model.add(layers.Dense(2))
        model.layers[0].layers[1].trainable = False
        model.compile("sgd", "cross_entropy")
        x = images(8, 6, 6, 4).numpy()
        before = model.layers[0].layers[0].weight.detach().clone()
        model.fit(x, np.arange(8) % 2, verbose=0)
        assert not torch.equal(before, model.layers[0].layers[0].weight)
        model.save(tmp_path / "m")
        loaded = models.load(tmp_path / "m")
        np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
        assert loaded.layers[0].trainable
        assert [each.trainable for each in loaded.layers[0].layers] == [True, False, True, True]
        loaded.layers[0].trainable = False
        assert not any(each.requires_grad for each in loaded.layers[0].parameters())
        weights = model.get_weights()
        loaded.set_weights([each + 1 for each in weights])
        np.testing.assert_array_equal(loaded.get_weights()[0], weights[0] + 1)

    def test_refusals(self):
        with pytest.raises(ValueError, match="needs one layer or more"):
            layers.Residual([])
        with pytest.raises(ValueError, match="PatchWhitening adapts to images"):
            layers.Residual([layers.PatchWhitening(4)])
        with pytest.raises(ValueError, match="unknown layer 'Cnv2D': did you mean 'Conv2D'"):
            layers.Residual([{"type": "Cnv2D"}])
        with pytest.raises(TypeError, match="a layer or its type and arguments is wanted"):
            layers.Residual([3])


class TestViews:
    def model(self, flip: bool, shift: int, views: int):
        torch.manual_seed(0)
        return models.Sequential(
            [
                layers.Views(flip, shift, input_shape=(8, 8, 2)),
                layers.PatchWhitening(6, activation="relu"),
                layers.Conv2D(4, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dense(3),
                layers.MeanOfViews(views),
                layers.Softmax(),
            ]
        )

    @pytest.mark.parametrize(("flip", "shift", "views"), [(1, 0, 2), (0, 2, 5), (1, 1, 10)])
    def test_evaluation_is_the_mean_of_the_logits_of_views_made_by_hand(self, flip, shift, views):
        model = self.model(bool(flip), shift, views)
        x = images(5, 8, 8, 2).numpy()
        model.adapt(x)
        assert model.layers[0].count == views
        everything = []
        for each in [x, x[:, :, ::-1]][: flip + 1]:
            wide = np.pad(each, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
            corners = {(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)} if shift else {(0, 0)}
            everything += [
                wide[:, y * shift : y * shift + 8, x * shift : x * shift + 8] for y, x in corners
            ]
        alone = models.Sequential(model.layers[1:-2])
        logits = np.mean([alone.predict(np.ascontiguousarray(each)) for each in everything], 0)
        model.eval()
        with torch.no_grad():
            np.testing.assert_allclose(model(torch.tensor(x), logits=True), logits, atol=1e-5)
        wanted = torch.softmax(torch.tensor(logits), 1)
        np.testing.assert_allclose(model.predict(x), wanted, atol=1e-5)

    def test_training_sees_the_images_alone(self):
        model = self.model(True, 1, 10).train()
        plain = models.Sequential(
            [each for each in model.layers if "iews" not in type(each).__name__]
        )
        x = images(6, 8, 8, 2)
        assert torch.equal(model(x), plain.train()(x))

    def test_layers_adapt_to_the_images_alone(self):
        x = images(6, 8, 8, 2).numpy()
        model, plain = self.model(True, 1, 10), models.Sequential([layers.PatchWhitening(6)])
        model.adapt(x)
        plain.adapt(x)
        np.testing.assert_array_equal(model.layers[1].get_weights(), plain.get_weights())

    def test_trained_saved_and_evaluated(self, tmp_path):
        model = self.model(True, 1, 10)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        x, y = images(7, 8, 8, 2).numpy(), np.arange(7) % 3
        model.adapt(x)
        history = model.fit(x, y, batch_size=3, validation_data=(x, y), verbose=0)
        share = float((model.predict(x).argmax(1) == y).mean())
        assert history.history["val_accuracy"][-1] == pytest.approx(share)
        model.save(tmp_path / "m")
        np.testing.assert_array_equal(models.load(tmp_path / "m").predict(x), model.predict(x))

    def test_exported_for_a_batch_of_any_size(self):
        model = self.model(True, 1, 10)
        x = images(5, 8, 8, 2).numpy()
        model.adapt(x)
        exported = program(model).module()
        for count in (2, 5):
            got = exported(torch.tensor(x[:count])).detach().numpy()
            np.testing.assert_allclose(got, model.predict(x[:count]), atol=1e-6)

    def test_refusals(self):
        with pytest.raises(ValueError, match="shift must be a whole number >= 0, got -1"):
            layers.Views(shift=-1)
        with pytest.raises(ValueError, match="larger than its shift, got 3×4 pixels and shift=3"):
            layers.Views(shift=3).eval()(torch.ones(1, 1, 3, 4))
        with pytest.raises(ValueError, match="views must be a whole number >= 1, got 0"):
            layers.MeanOfViews(0)
        with pytest.raises(ValueError, match="6 views of each image, got a batch of 4"):
            layers.MeanOfViews(6).eval()(torch.ones(4, 2))


def test_in_a_recipe_and_in_summary(tmp_path):
    (tmp_path / "new.toml").write_text("""
        [data]
        name = "fashion_mnist"
        scale = 255.0
        [fit]
        epochs = 1
        batch_size = 8
        seed = 0
        validation = "none"
        [compile]
        optimizer = "sgd"
        loss = "sparse_categorical_crossentropy"
        metrics = []
        [[layers]]
        type = "Conv2D"
        filters = 4
        kernel_size = 3
        weight_standardization = true
        [[layers]]
        type = "GhostBatchNormalization"
        ghost_size = 4
        [[layers]]
        type = "BatchRenormalization"
        [[layers]]
        type = "DropBlock2D"
        rate = 0.1
        [[layers]]
        type = "Residual"
        layers = [
            {type = "FilterResponseNormalization"},
            {type = "Conv2D", filters = 4, kernel_size = 3, padding = "same"},
            {type = "DropPath", rate = 0.1},
        ]
        [[layers]]
        type = "Flatten"
        [[layers]]
        type = "ScheduledDropout"
        rate = 0.2
        steps = 10
        [[layers]]
        type = "Dense"
        units = 3
        activation = "softmax"
    """)
    recipe = Recipe.load(str(tmp_path / "new.toml"))
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert Recipe.load(str(tmp_path / "again.toml")).table == recipe.table
    model = recipe.model((8, 8, 1))
    x = np.random.default_rng(0).random((9, 8, 8, 1))
    assert np.isfinite(model.fit(x, np.arange(9) % 3, verbose=0).history["loss"][0])
    lines: list[str] = []
    model.summary(lines.append)
    for kind in ("GhostBatchNormalization", "BatchRenormalization", "Residual", "ScheduledDropout"):
        assert f"({kind})" in lines[0]
