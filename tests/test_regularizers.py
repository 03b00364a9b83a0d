"""Penalties: formulas with numbers by hand, patterns, schedules, their part in training."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import layers, models, regularizers, schedules
from pyconvopt.training import Trainer


def test_formulas_and_gradients_by_hand():
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.0]], requires_grad=True)
    # L1: 0.1·(1 + 2 + 0.5), gradient 0.1·sign(w); L2: 0.05·(1 + 4 + 0.25), gradient 0.1·w.
    cases = (
        (regularizers.L1(0.1), 0.35, [[0.1, -0.1], [0.1, 0.0]]),
        (regularizers.L2(0.1), 0.2625, [[0.1, -0.2], [0.05, 0.0]]),
        (regularizers.L1L2(0.1, 0.1), 0.6125, [[0.2, -0.3], [0.15, 0.0]]),
    )
    for regularizer, value, gradient in cases:
        penalty = regularizer(weight)
        assert penalty.item() == pytest.approx(value)
        (got,) = torch.autograd.grad(penalty, weight)
        torch.testing.assert_close(got, torch.tensor(gradient))


def test_l2_is_torchs_weight_decay_under_sgd():
    def one_step(weight_decay, patterns):
        torch.manual_seed(1)
        model = nn.Linear(3, 2)
        trainer = Trainer(
            model,
            lambda parameters: torch.optim.SGD(parameters, 0.1, weight_decay=weight_decay),
            "mse",
            regularizers=patterns,
        )
        trainer.fit((torch.ones(4, 3), torch.ones(4, 2)), batch_size=4, verbose=0)
        return model.weight.detach()

    ours = one_step(0.0, {"*": regularizers.L2(0.3)})
    torch.testing.assert_close(ours, one_step(0.3, None))
    assert not torch.allclose(ours, one_step(0.0, None))


def test_matrix_penalties_by_hand():
    # Rows (1, 2), (0, 2): W·Wᵀ - I = ((4, 4), (4, 3)), squares 16 + 16 + 16 + 9.
    square = torch.tensor([[1.0, 2.0], [0.0, 2.0]])
    assert regularizers.Orthogonal(0.1)(square).item() == pytest.approx(5.7)
    # Filters (3, 4) and (0, 5): norms 5 and 5.
    kernel = torch.tensor([[3.0, 4.0], [0.0, 5.0]]).reshape(2, 1, 1, 2)
    assert regularizers.GroupLasso(0.1)(kernel).item() == pytest.approx(1.0)
    # A tall matrix: the columns, which differ from the rows by a constant and no gradient.
    tall = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    ours = regularizers.Orthogonal(1.0)(tall)
    rows = (tall @ tall.t() - torch.eye(5, dtype=torch.float64)).square().sum()
    assert rows.item() - ours.item() == pytest.approx(2)
    for got, wanted in zip(
        torch.autograd.grad(ours, tall), torch.autograd.grad(rows, tall), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (40, 4), (16, 16)])
def test_spectral_norm_is_the_largest_singular_value(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    left, sizes, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    sizes[0] = 1.5 * sizes[1]  # a gap, so that the gradient is well defined
    matrix = (left * sizes) @ right
    weight = matrix.reshape(shape).requires_grad_()
    penalty = regularizers.SpectralNorm(0.2, iterations=60)(weight)
    assert penalty.item() == pytest.approx(0.1 * sizes[0].item() ** 2, rel=1e-9)
    (gradient,) = torch.autograd.grad(penalty, weight)
    wanted = 0.2 * sizes[0] * torch.outer(left[:, 0], right[0])
    torch.testing.assert_close(gradient.flatten(1), wanted)
    assert torch.equal(penalty, regularizers.SpectralNorm(0.2, iterations=60)(weight))


def test_training_makes_kernels_orthogonal():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten())
    trainer = Trainer(
        model,
        lambda parameters: torch.optim.SGD(parameters, 0.1),
        "mse",
        regularizers={"0.weight": regularizers.Orthogonal(0.5)},
    )
    trainer.fit((torch.zeros(4, 2, 3, 3), torch.zeros(4, 6)), epochs=60, verbose=0)
    rows = model[0].weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.t(), torch.eye(6), atol=1e-3, rtol=0)


class TestProximal:
    def test_numbers_by_hand(self):
        weight = torch.tensor([1.0, -0.3, 0.1, -0.05])
        regularizers.ProximalL1(0.5).shrink(weight, rate=0.2)
        torch.testing.assert_close(weight, torch.tensor([0.9, -0.2, 0.0, 0.0]))
        weight.requires_grad_()
        penalty = regularizers.ProximalL1(0.5)(weight)
        assert penalty.item() == pytest.approx(0.55) and not penalty.requires_grad

    def test_a_step_of_training_is_a_gradient_step_and_a_shrinkage(self):
        model = nn.Linear(3, 1, bias=False)
        before = model.weight.detach().clone()
        x, y = torch.randn(8, 3), torch.randn(8, 1)
        gradient = (2 / 8) * (x @ before.t() - y).t() @ x
        moved = before - 0.1 * gradient
        trainer = Trainer(
            model,
            lambda parameters: torch.optim.SGD(parameters, 0.1),
            "mse",
            regularizers={"weight": regularizers.ProximalL1(2.0)},
        )
        history = trainer.fit((x, y), batch_size=8, verbose=0)
        wanted = moved.sign() * (moved.abs() - 0.1 * 2.0).clamp(min=0)
        torch.testing.assert_close(model.weight.detach(), wanted)
        loss = (x @ before.t() - y).square().mean() + 2.0 * before.abs().sum()
        assert history.history["loss"] == [pytest.approx(loss.item())]

    def test_true_zeros_where_l1_has_none(self):
        """Of twenty inputs two matter: the other weights become exactly 0."""
        x = torch.randn(256, 20)
        y = 3 * x[:, :1] - 2 * x[:, 1:2]

        def train(regularizer):
            torch.manual_seed(0)
            model = nn.Linear(20, 1, bias=False)
            Trainer(
                model,
                lambda parameters: torch.optim.SGD(parameters, 0.05),
                "mse",
                regularizers={"weight": regularizer},
            ).fit((x, y), epochs=20, verbose=0)
            return model

        model = train(regularizers.ProximalL1(0.3))
        assert regularizers.sparsity(model) == 0.9
        assert model.weight[0, :2].abs().min() > 1
        assert regularizers.sparsity(train(regularizers.L1(0.3))) == 0

    def test_rate_of_the_group_and_frozen_weights(self):
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
        for layer in model:
            nn.init.ones_(layer.weight)
        regularizers.attach(model, {"*.weight": regularizers.ProximalL1(1.0)})
        groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.25}]
        regularizers.proximal_step(model, torch.optim.SGD(groups, lr=0.5))
        assert [layer.weight.item() for layer in model] == [0.5, 0.75, 1.0]

    def test_weights_frozen_after_the_optimiser_was_made(self):
        model = nn.Linear(3, 2)
        regularizers.attach(model, {"weight": regularizers.ProximalL1(1.0)})
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        model.weight.requires_grad_(False)
        before = model.weight.clone()
        regularizers.proximal_step(model, optimizer)
        assert torch.equal(model.weight, before)

    def test_rate_of_an_optimiser_whose_state_was_loaded(self):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        regularizers.attach(model, {"weight": regularizers.ProximalL1(1.0)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        (term,) = regularizers.proximal_terms(model, optimizer)
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.25).state_dict())
        term.apply(0)
        assert model.weight.item() == 0.75

    def test_summary_shows_the_zeros(self):
        lines = []
        model = models.Sequential(
            [
                layers.Dense(
                    4,
                    kernel_initializer="zeros",
                    bias_initializer="ones",
                    kernel_regularizer="proximal_l1",
                    input_shape=(4,),
                )
            ]
        )
        model.summary(print_fn=lines.append)
        assert "Weights that are 0: 80.0%" in lines[0]
        plain = models.Sequential([layers.Dense(4, input_shape=(4,))])
        plain.summary(print_fn=lines.append)
        assert "that are 0" not in lines[1]

    def test_sparsity_of_a_pattern(self):
        model = nn.Linear(4, 4)
        nn.init.zeros_(model.bias)
        assert regularizers.sparsity(model) == 0.2
        assert regularizers.sparsity(model, "bias") == 1
        with pytest.raises(ValueError, match="named like 'kernel'; this model has weight, bias"):
            regularizers.sparsity(model, "kernel")


class Rising:
    """A strength by schedule, as a picklable object."""

    def __call__(self, step):
        return 0.1 * step


class TestSchedules:
    def test_strength_follows_the_step(self):
        weight = torch.tensor([[3.0, -4.0]])
        for regularizer, value in (
            (regularizers.L1(Rising()), 0.7),
            (regularizers.L2(Rising()), 1.25),
            (regularizers.L1L2(0.0, Rising()), 1.25),
            (regularizers.GroupLasso(Rising()), 0.5),
            (regularizers.SpectralNorm(Rising()), 1.25),
            (regularizers.Orthogonal(Rising()), 57.6),
            (regularizers.ProximalL1(Rising()), 0.7),
        ):
            assert regularizer(weight, 1).item() == pytest.approx(value)
            assert regularizer(weight, 3).item() == pytest.approx(3 * value)
            assert regularizer(weight).item() == 0

    def test_the_trainer_counts_the_steps(self):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        trainer = Trainer(
            model,
            lambda parameters: torch.optim.SGD(parameters, 0.0),
            "mse",
            regularizers={"weight": regularizers.L1(Rising())},
        )
        data = torch.zeros(3, 1), torch.zeros(3, 1)
        history = trainer.fit(data, epochs=2, batch_size=1, verbose=0)
        # Strengths 0, 0.1, 0.2 and 0.3, 0.4, 0.5 on a weight of 1.
        assert history.history["loss"] == [pytest.approx(0.1), pytest.approx(0.4)]

    def strengths(self, penalty, batches=2, epochs=4, validation=None) -> list[float]:
        """The strength each epoch (its mean) of a penalty on a weight of 1."""
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        data = torch.zeros(batches, 1), torch.zeros(batches, 1)
        trainer = Trainer(model, "sgd", "mse", learning_rate=0, regularizers={"weight": penalty})
        assert trainer.evaluate(data)["loss"] == 0  # before the run: step 0
        history = trainer.fit(data, epochs=epochs, batch_size=1, verbose=0, validation=data).history
        assert trainer.evaluate(data)["loss"] == pytest.approx(history["val_loss"][-1])
        return history["loss"]

    def test_strengths_in_epochs_and_shares_of_the_run(self):
        rising = schedules.Polynomial(0.0, 1, end=0.8)  # 0, 0.1 ... 0.7 of 8 steps
        wanted = [pytest.approx(each) for each in (0.05, 0.25, 0.45, 0.65)]
        for kind in (regularizers.L1, regularizers.ProximalL1):
            assert self.strengths(kind(rising.over_run())) == wanted
        # Over two epochs, then its last value holds.
        two = schedules.Polynomial(0.0, 2, end=0.8).per_epoch()
        wanted = [pytest.approx(each) for each in (0.1, 0.5, 0.8, 0.8)]
        assert self.strengths(regularizers.L1(two)) == wanted

    def test_a_proximal_step_in_shares_of_the_run(self):
        """η = 1, l = 0 and 0.05 in two steps: 1 becomes 0.95."""
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        rising = schedules.Polynomial(0.0, 1, end=0.1).over_run()
        Trainer(
            model,
            "sgd",
            "mse",
            learning_rate=1.0,
            regularizers={"weight": regularizers.ProximalL1(rising)},
        ).fit((torch.zeros(2, 1), torch.zeros(2, 1)), batch_size=1, verbose=0)
        assert model.weight.item() == pytest.approx(0.95)

    def test_outputs_in_shares_of_the_run(self):
        model = nn.Sequential(nn.Linear(1, 1, bias=False))
        nn.init.ones_(model[0].weight)
        rising = schedules.Polynomial(0.0, 1, end=0.8).over_run()
        regularizers.attach_activity(model, {"0": regularizers.L1(rising)})
        data = torch.ones(4, 1), torch.ones(4, 1)
        trainer = Trainer(model, "sgd", "mse", learning_rate=0)
        history = trainer.fit(data, epochs=2, batch_size=2, verbose=0).history
        assert history["loss"] == [pytest.approx(0.1), pytest.approx(0.5)]

    def test_units_need_the_length_of_the_run(self):
        def batches():
            yield torch.zeros(2, 1), torch.zeros(2, 1)

        penalty = regularizers.L2(schedules.Constant(0.1).over_run())
        trainer = Trainer(nn.Linear(1, 1), "sgd", "mse", regularizers={"weight": penalty})
        with pytest.raises(ValueError, match="needs the number of its steps"):
            trainer.fit(batches, verbose=0)

    def test_refusals(self):
        with pytest.raises(ValueError, match="strength l must be 0 or more, got -1"):
            regularizers.L2(lambda step: -1)(torch.ones(1))
        with pytest.raises(ValueError, match="cannot be saved: a file holds a strength"):
            regularizers.describe(regularizers.L2(Rising()))


class TestActivity:
    def model(self, **settings):
        return models.Sequential(
            [
                layers.Dense(
                    2, kernel_initializer="ones", input_shape=(1,), name="watched", **settings
                )
            ]
        )

    def test_a_sample_by_hand(self):
        model = self.model(activity_regularizer=regularizers.L1(0.5))
        x = torch.tensor([[1.0], [-3.0]])
        model(x)
        # Outputs ±: 0.5 · (1 + 1 + 3 + 3) / 2 samples.
        assert regularizers.penalty(model).item() == pytest.approx(2.0)
        assert regularizers.penalty(model).item() == 0, "an output counts once"

    def test_training_and_evaluation_count_it(self):
        model = self.model(activity_regularizer=regularizers.L2(1.0))
        model.compile(lambda parameters: torch.optim.SGD(parameters, 0.1), "mse")
        x, y = np.array([[2.0]]), np.array([[2.0, 2.0]])
        assert model.evaluate(x, y, verbose=0) == pytest.approx(4.0)
        model.fit(x, y, verbose=0)
        # d/dw of w²·4/2 summed over two units is 4·w each; the loss itself has no gradient.
        np.testing.assert_allclose(model.get_weights()[0], [[0.6, 0.6]], rtol=1e-6)

    def test_softmax_is_penalised_though_the_loss_takes_logits(self):
        model = self.model(activation="softmax", activity_regularizer=regularizers.L1(1.0))
        model.compile("sgd", "sparse_categorical_crossentropy")
        assert model.evaluate([[5.0]], [0], verbose=0) == pytest.approx(np.log(2) + 1)

    def test_a_softmax_layer_is_penalised_though_the_loss_takes_logits(self):
        model = models.Sequential([layers.Dense(3, input_shape=(2,)), layers.Softmax()])
        regularizers.attach_activity(model, {"softmax": regularizers.L1(1.0)})
        model(torch.randn(5, 2), logits=True)
        assert regularizers.penalty(model).item() == pytest.approx(1.0)

    def test_a_layer_that_is_watched_is_not_joined_with_the_next(self):
        torch.manual_seed(0)
        model = models.Sequential(
            [
                layers.Conv2D(4, 3, activity_regularizer="l1", input_shape=(6, 6, 1)),
                layers.MaxPooling2D(2),
            ]
        )
        x = torch.randn(2, 6, 6, 1)
        model(x)
        convolved = model.layers[0](x.permute(0, 3, 1, 2))
        wanted = 0.01 * convolved.abs().sum() / 2
        torch.testing.assert_close(regularizers.penalty(model), wanted)

    def test_torch_models(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        assert regularizers.attach_activity(model, {"*": "l1", "0": None}) == ["0", "1"]
        y = model(torch.randn(5, 2))
        torch.testing.assert_close(regularizers.penalty(model), 0.01 * y.sum() / 5)
        with pytest.raises(ValueError, match=r"no module is named like 'x'; this model has 0, 1"):
            regularizers.attach_activity(model, {"x": "l1"})

    def test_copies_pickles_and_configuration(self):
        model = self.model(activity_regularizer="l1")
        model(torch.ones(1, 1))  # an output with a graph waits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other(torch.ones(1, 1))
            assert regularizers.penalty(other).item() == pytest.approx(0.02)
        config = model.layers[0].get_config()
        assert config["activity_regularizer"] == {"name": "l1", "config": {"l": 0.01}}


class TestAttach:
    def test_patterns(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
        assert regularizers.attach(model, {"[02].weight": "l2", "*.bias": regularizers.L1(1)}) == [
            "0.weight",
            "2.weight",
            "0.bias",
            "1.bias",
            "2.bias",
        ]
        expected = sum(0.005 * w.square().sum() for w in (model[0].weight, model[2].weight)) + sum(
            m.bias.abs().sum() for m in model
        )
        torch.testing.assert_close(regularizers.penalty(model), expected)

    def test_later_patterns_replace_and_none_removes(self):
        model = nn.Linear(2, 2)
        regularizers.attach(model, {"weight": "l1", "*": "l2"})
        regularizers.attach(model, {"bias": None})
        terms = regularizers.terms(model)
        assert [(term.parameter, term.regularizer) for term in terms] == [
            ("weight", regularizers.L2())
        ]

    def test_a_pattern_that_meets_nothing(self):
        with pytest.raises(ValueError, match=r"named like 'conv\*'; this model has weight, bias"):
            regularizers.attach(nn.Linear(2, 2), {"conv*": "l2"})

    def test_a_weight_of_two_layers_has_the_same_penalty_once(self):
        model = models.Sequential([layers.Dense(3, kernel_regularizer="l2", input_shape=(3,))])
        alone = regularizers.penalty(model)
        model.add(layers.Dense(3, kernel_regularizer="l2"))
        model.layers[1].weight = model.layers[0].weight
        assert regularizers.penalty(model) == alone
        regularizers.set_on(model.layers[1], "weight", regularizers.L1(0.0))
        assert len(regularizers.terms(model)) == 2
        for layer in model.layers:
            regularizers.set_on(layer, "weight", regularizers.ProximalL1(0.5))
        with torch.no_grad():
            model.layers[0].weight.fill_(1.0)
        regularizers.proximal_step(model, torch.optim.SGD(model.parameters(), 1.0))
        assert model.layers[0].weight.unique().tolist() == [0.5]

    def test_frozen_weights_have_none_as_in_keras(self):
        model = models.Sequential([layers.Dense(2, kernel_regularizer="l2", input_shape=(3,))])
        assert regularizers.penalty(model) > 0
        model.layers[0].trainable = False
        assert regularizers.penalty(model) == 0
        model.layers[0].trainable = True
        with torch.no_grad():
            assert regularizers.penalty(model) > 0

    def test_no_penalty_is_zero(self):
        assert regularizers.penalty(nn.Linear(2, 2)).item() == 0


def test_layer_arguments_enter_training_and_evaluation():
    model = models.Sequential(
        [
            layers.Dense(
                2,
                kernel_regularizer=regularizers.L2(0.5),
                bias_regularizer="l1",
                kernel_initializer="ones",
                bias_initializer="ones",
                input_shape=(3,),
            )
        ]
    )
    model.compile("sgd", "mse")
    x, y = np.zeros((4, 3)), np.ones((4, 2))
    # The loss itself is 0: what is left is 0.25·6 + 0.01·2.
    assert model.evaluate(x, y, verbose=0) == pytest.approx(1.52)
    history = model.fit(x, y, batch_size=4, verbose=0)
    assert history.history["loss"] == [pytest.approx(1.52)]
    # Gradient of the kernel: 0.5·w; sgd's rate is 0.01.
    np.testing.assert_allclose(model.get_weights()[0], 1 - 0.01 * 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", regularizers.TABLE)
def test_whole_numbers_are_refused(name):
    regularizer = regularizers.get(name)
    weight = torch.tensor([[1, -2], [3, 4]])
    kind = type(regularizer).__name__
    with pytest.raises(TypeError, match=rf"{kind} penalises .*floating.*, got dtype torch.int64"):
        regularizer(weight)
    model = nn.Linear(2, 2)
    model.counts = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(TypeError, match=r"parameter counts must be .* got dtype torch.int64"):
        regularizers.attach(model, {"counts": regularizer})
    with pytest.raises(TypeError, match="must be a tensor of floating-point numbers, got list"):
        regularizer([1.0])


def test_outputs_of_whole_numbers_are_refused():
    class Rounded(nn.Module):
        def forward(self, x):
            return x.long()

    model = nn.Sequential(Rounded())
    regularizers.attach_activity(model, {"0": lambda output: output.sum()})
    with pytest.raises(TypeError, match="the output of Rounded, which is penalised, must be"):
        model(torch.ones(2))
    with pytest.raises(TypeError, match="what ProximalL1 shrinks must be"):
        regularizers.ProximalL1().shrink(torch.tensor([1]), 0.1)


class TestNames:
    def test_the_nearest_is_offered(self):
        model = nn.Sequential(nn.Linear(2, 2))
        for attach in (regularizers.attach, regularizers.attach_activity):
            with pytest.raises(ValueError, match="; this model has 0") as error:
                attach(model, {"qqqq": "l2"})
            assert "did you mean" not in str(error.value)
        with pytest.raises(
            ValueError, match=r"'0.weigth'; did you mean '0.weight'\? This model has"
        ):
            regularizers.attach(model, {"0.weigth": "l2"})

    def test_a_tied_weight_has_two_names_and_one_penalty(self):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        for pattern in ("1.weight", "*.weight", "0.weight"):
            assert regularizers.attach(model, {pattern: "l2"}) == ["0.weight"]
            once = regularizers.L2()(model[0].weight)
            torch.testing.assert_close(regularizers.penalty(model), once)
        assert regularizers.sparsity(model, "1.weight") == 0.0


class TestTransposedConvolutions:
    @pytest.mark.parametrize("groups", [1, 2])
    def test_filters_of_torchs(self, groups):
        module = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
        regularizers.attach(module, {"weight": regularizers.GroupLasso(1.0)})
        # What one filter gives out: the output's channel, of an input that meets one group.
        group = 6 // groups
        by_hand = sum(
            module.weight[4 // groups * (k // group) : 4 // groups * (k // group + 1), k % group]
            .norm()
            .item()
            for k in range(6)
        )
        assert regularizers.penalty(module).item() == pytest.approx(by_hand, rel=1e-5)

    def test_filters_of_a_layer(self):
        layer = layers.Conv2DTranspose(6, 3, kernel_regularizer=regularizers.GroupLasso(1.0))
        layer.build((None, 5, 5, 4))
        by_hand = layer.weight.detach().transpose(0, 1).flatten(1).norm(dim=1).sum()
        torch.testing.assert_close(regularizers.penalty(layer), by_hand)


def test_refusals():
    with pytest.raises(ValueError, match="strength l must be 0 or more, got -1"):
        regularizers.L2(-1)
    with pytest.raises(ValueError, match="strength l must be 0 or more, got nan"):
        regularizers.L1(float("nan"))
    for wrong in ("0.1", None, [0.1]):
        with pytest.raises(ValueError, match="strength l must be 0 or more, got"):
            regularizers.L2(wrong)
    with pytest.raises(ValueError, match=r"GroupLasso works on kernels .* shape \(3,\)"):
        regularizers.GroupLasso()(torch.ones(3))
    with pytest.raises(ValueError, match="iterations must be a whole number >= 1, got 0"):
        regularizers.SpectralNorm(iterations=0)
    with pytest.raises(ValueError, match="unknown regularizer 'l3': did you mean 'l"):
        layers.Dense(2, kernel_regularizer="l3")
