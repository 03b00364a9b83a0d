"""Clipping of gradients: unit by unit beside the weights, by hand; the others' options and order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import layers, models
from pyconvopt.training import AdaptiveClip, Trainer
from tests.small_models import points


def clipped(module: nn.Module, weight, gradient, **settings) -> torch.Tensor:
    with torch.no_grad():
        module.weight.copy_(torch.as_tensor(weight))
    module.weight.grad = torch.as_tensor(gradient).clone()
    AdaptiveClip(**settings).on(module)()
    return module.weight.grad


class TestUnits:
    def test_rows_by_hand(self):
        """Rows of length 5, 1 and 0 may have gradients of 0.05, 0.01 and 0.01 · 0.001."""
        weight = [[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]
        gradient = torch.tensor([[6.0, 8.0], [0.0, 0.005], [2.0, 0.0]])
        got = clipped(nn.Linear(2, 3), weight, gradient)
        torch.testing.assert_close(got, torch.tensor([[0.03, 0.04], [0.0, 0.005], [1e-5, 0.0]]))

    def test_settings_by_hand(self):
        got = clipped(nn.Linear(2, 2), torch.zeros(2, 2), torch.eye(2), clipping=0.5, eps=0.2)
        torch.testing.assert_close(got, 0.1 * torch.eye(2))

    @pytest.mark.parametrize(
        ("make", "axis"),
        [
            (lambda: nn.Conv2d(3, 4, 2), 0),
            (lambda: pco.nn.Conv2d(4, 4, 2, groups=2).to(memory_format=torch.channels_last), 0),
            (lambda: nn.ConvTranspose2d(3, 4, 2), 1),
            (lambda: nn.Embedding(5, 3), 0),
        ],
    )
    def test_each_output_unit_is_one(self, make, axis):
        torch.manual_seed(0)
        module = make()
        weight, gradient = module.weight.detach().clone(), torch.randn_like(module.weight)
        got = clipped(module, weight, gradient)
        for unit in range(weight.shape[axis]):
            w, g, result = (each.select(axis, unit) for each in (weight, gradient, got))
            wanted = g * min(1.0, 0.01 * max(w.norm().item(), 1e-3) / g.norm().item())
            torch.testing.assert_close(result, wanted)

    def test_a_grouped_transposed_convolution(self):
        """(in, out / groups, kh, kw): the unit of an output has its group's inputs alone."""
        module = nn.ConvTranspose2d(4, 4, 1, groups=2)
        weight = torch.tensor([[3.0, 1.0], [4.0, 0.0], [0.0, 6.0], [1.0, 8.0]])
        got = clipped(module, weight[..., None, None], torch.ones(4, 2, 1, 1))[..., 0, 0]
        size = torch.tensor([[5.0, 1.0]] * 2 + [[1.0, 10.0]] * 2)
        torch.testing.assert_close(got, 0.01 * size / 2**0.5)

    def test_a_layer_of_kerass_kind(self):
        layer = layers.Conv2DTranspose(4, 2)
        layer.build((None, 5, 5, 3))
        got = clipped(layer, layer.weight.detach().clone(), torch.ones_like(layer.weight))
        wanted = 0.01 * torch.linalg.vector_norm(layer.weight.detach(), dim=(0, 2, 3))
        torch.testing.assert_close(torch.linalg.vector_norm(got, dim=(0, 2, 3)), wanted)

    @pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4, 1)])
    def test_what_has_one_axis_is_one_unit(self, shape):
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(shape))  # of length 2
        got = clipped(module, torch.ones(shape), torch.full(shape, 8.0))
        torch.testing.assert_close(got, torch.full(shape, 0.01))

    def test_what_is_no_number_stays_so(self):
        got = clipped(nn.Linear(2, 2), torch.eye(2), [[float("nan"), 1.0], [0.0, 3.0]])
        assert got[0].isnan().any() and got[1].tolist() == pytest.approx([0.0, 0.01])


class TestTrainer:
    def test_layers_may_be_left_out(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        before = [each.detach().clone() for each in model.parameters()]
        clip = AdaptiveClip(1e-6, leave_out=("2.*",))
        Trainer(model, "sgd", learning_rate=1.0, adaptive_clip=clip).fit(
            points(), batch_size=64, verbose=0
        )
        moved = [
            float((each.detach() - old).norm() / old.norm())
            for each, old in zip(model.parameters(), before, strict=True)
        ]
        assert max(moved[:2]) < 2e-6 and min(moved[2:]) > 1e-3

    # Optimisers that clip apart from their step: within it the gradients stay what they were.
    @pytest.mark.parametrize(
        "options",
        [
            {"optimizer": torch.optim.Adam},
            {"optimizer": torch.optim.Adam, "accumulate": 2},
            {"optimizer": "sam"},
        ],
    )
    def test_bounds_of_all_kinds_hold_together(self, options):
        model = nn.Linear(2, 2)
        trainer = Trainer(model, adaptive_clip=0.01, clip_norm=0.004, clip_value=0.003, **options)
        trainer.fit(points(), batch_size=32, verbose=0)
        gradients = [each.grad for each in model.parameters()]
        assert torch.cat([each.flatten() for each in gradients]).norm() < 0.0041
        assert max(float(each.abs().max()) for each in gradients) < 0.0031
        assert (model.weight.grad.norm(dim=1) <= 0.0101 * model.weight.norm(dim=1)).all()

    def test_a_saved_model_keeps_it(self, tmp_path):
        pytest.importorskip("safetensors", reason="saving needs safetensors")
        model = models.Sequential([layers.Dense(2, input_shape=(2,), name="fc")])
        settings = {"clipping": 0.02, "leave_out": ["fc.bias"]}
        model.compile("sgd", "mse", adaptive_clip=settings)
        model.save(tmp_path / "model.safetensors")
        loaded = models.load(tmp_path / "model.safetensors").trainer()
        assert loaded.clipping.adaptive == AdaptiveClip(0.02, leave_out=["fc.bias"])

    def test_refusals(self):
        for spec, message in (
            (0, "adaptive_clip must be more than 0, got 0"),
            (True, "adaptive_clip must be more than 0, got True"),
            ({"clipping": -1}, "clipping must be more than 0"),
            ({"eps": 0}, "eps must be more than 0"),
            ({"epsilon": 1}, "argument of setting adaptive_clip 'epsilon': did you mean 'eps'"),
            ({"leave_out": "fc"}, "leave_out must be a list of patterns, got 'fc'"),
        ):
            with pytest.raises(ValueError, match=message):
                Trainer(nn.Linear(2, 2), adaptive_clip=spec)
        trainer = Trainer(nn.Linear(2, 2), adaptive_clip={"leave_out": ["fc.*"]})
        with pytest.raises(ValueError, match=r"named like 'fc.\*'; this model has weight, bias"):
            trainer.fit(points(), verbose=0)
