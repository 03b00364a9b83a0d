"""Batch-norm statistics of an averaged model: those of the training batches, by themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pyconvopt as pco
from pyconvopt import averaging, layers, models
from pyconvopt.training import LambdaCallback, Trainer

BATCHES = [torch.randn(9, 2, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def torch_model(norm):
    return nn.Sequential(nn.Conv2d(2, 3, 3), norm(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())


def keras_model():
    return models.Sequential(
        [layers.Conv2D(3, 3, input_shape=(8, 8, 2)), layers.BatchNormalization(), layers.ReLU()]
    )


KINDS = {
    "torch": lambda: torch_model(nn.BatchNorm2d),
    "pyconvopt.nn": lambda: torch_model(pco.nn.BatchNorm2d),
    "cumulative": lambda: torch_model(lambda n: nn.BatchNorm2d(n, momentum=None)),
    "layers": keras_model,
}


def prepared(kind):
    """A model, an average of it that has seen the batches, and the batches as it takes them."""
    model, batches = KINDS[kind](), BATCHES
    if kind == "layers":
        batches = [batch.permute(0, 2, 3, 1) for batch in batches]
    average = averaging.EMA(0.5)
    average.attach(model)
    model.train()
    for scale, batch in zip((1.0, 2.0, -1.0, 3.0), batches, strict=True):
        with torch.no_grad():
            next(model.parameters()).mul_(scale)
        model(batch)
        average.update()
    return model, average, batches


def norm_of(model):
    return next(module for module in model.modules() if hasattr(module, "running_mean"))


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_statistics_of_all_batches_together(kind):
    model, average, _ = prepared(kind)
    with average.applied():
        first = next(module for module in model.modules() if hasattr(module, "kernel_size"))
        outputs = nn.functional.conv2d(torch.cat(BATCHES), first.weight, first.bias).double()
        mean, variance = outputs.mean((0, 2, 3)), outputs.var((0, 2, 3), correction=0)
        norm = norm_of(model)
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        # torch keeps each batch's unbiased variance: 9 · 6 · 6 values, a part in 324 more.
        slack = 1e-5 if kind == "layers" else 1 / 300
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=slack, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_comes_back_to_the_bit(kind):
    model, average, batches = prepared(kind)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    momentum = norm_of(model).momentum
    random = torch.get_rng_state()
    with average.applied():
        assert not torch.equal(norm_of(model).running_mean, before[name_of_mean(model)])
        counts = [name for name in before if name.endswith("num_batches_tracked")]
        assert all(torch.equal(model.state_dict()[name], before[name]) for name in counts)
        model.eval()
        model(batches[0])
        model.train()
    assert torch.equal(torch.get_rng_state(), random), "dropout drew numbers"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in model.modules()] == modes
    assert norm_of(model).momentum == momentum
    assert len(average.recent) == len(batches)


def name_of_mean(model):
    return next(name for name in model.state_dict() if name.endswith("running_mean"))


def test_ghost_batch_norm_takes_the_whole_batch():
    model = nn.Sequential(pco.nn.GhostBatchNorm2d(2, ghost_size=2))
    average = averaging.EMA(0.5)
    average.attach(model)
    for batch in BATCHES:
        model(batch + 10 * torch.arange(9.0).view(9, 1, 1, 1))  # the parts are far from alike
    average.update()
    with average.applied():
        norm = model[0]
        seen = torch.cat([each + 10 * torch.arange(9.0).view(9, 1, 1, 1) for each in BATCHES])
        torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, seen.var((0, 2, 3)), rtol=1 / 300, atol=0)
        assert norm.ghost_size == 2
    assert norm.ghost_size == 2 and norm.num_batches_tracked == 4 * 5


def test_batch_norm_layers_with_a_way_of_their_own():
    """Keras' layers too: ghost batches are taken as a whole, and what renormalisation counts stays."""
    apart = 10 * torch.arange(9.0).view(9, 1, 1, 1)
    for layer in (layers.GhostBatchNormalization(2), layers.BatchRenormalization()):
        model = models.Sequential([layer])
        model(BATCHES[0])
        average = averaging.EMA(0.5)
        average.attach(model)
        for batch in BATCHES:
            model(batch + apart)
        average.update()
        before = getattr(layer, "num_batches_tracked", torch.zeros(())).clone()
        with average.applied():
            seen = torch.cat([each + apart for each in BATCHES])
            torch.testing.assert_close(layer.running_mean, seen.mean((0, 1, 2)))
            torch.testing.assert_close(layer.running_var, seen.var((0, 1, 2)), rtol=1 / 300, atol=0)
            assert getattr(layer, "num_batches_tracked", before) == before


def test_a_model_called_by_keywords():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, *, scale, images):
            return self.norm(scale * images)

    model = Named()
    average = averaging.EMA(0.5)
    average.attach(model)
    for size, batch in ((3, BATCHES[0]), (9, BATCHES[1])):
        model(scale=2.0, images=batch[:size])
    average.update()
    seen = 2 * torch.cat([BATCHES[0][:3], BATCHES[1]])
    with average.applied():
        torch.testing.assert_close(model.norm.running_mean, seen.mean((0, 2, 3)))


def test_only_the_last_batches_are_kept_and_none_without_batch_norm():
    model = torch_model(nn.BatchNorm2d)
    average = averaging.EMA(batches=2)
    average.attach(model)
    for batch in BATCHES:
        model(batch)
    model.eval()
    model(BATCHES[0])
    assert [kept[0][0] is batch for kept, batch in zip(average.recent, BATCHES[2:], strict=True)]
    average.attach(
        plain := nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))
    )
    plain(BATCHES[0])
    assert not average.recent and not plain._forward_pre_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("kind", ["torch", "layers"])
def test_frozen_batch_norm_keeps_its_statistics(kind):
    model = KINDS[kind]()
    norm = norm_of(model)
    average = averaging.EMA(0.5)
    average.attach(model)
    model.train()
    if kind == "layers":
        norm.trainable = False
    else:
        norm.eval()
    model(BATCHES[0] if kind == "torch" else BATCHES[0].permute(0, 2, 3, 1))
    average.update()
    before = norm.running_mean.clone()
    with average.applied():
        assert torch.equal(norm.running_mean, before)


def test_an_averaged_model_is_worthless_with_the_old_ones():
    """The weights swing between two scales: their mean is neither, and so are its activations."""
    torch.manual_seed(0)
    x = torch.randn(256, 2, 8, 8)
    y = (x.mean((1, 2, 3)) > 0).long()

    class Swinging(torch.optim.SGD):
        """Plain SGD, but the first layer's bias is 5 and −5 in turn."""

        def step(self, closure=None):
            super().step(closure)
            bias = self.param_groups[0]["params"][1]
            with torch.no_grad():
                bias.copy_(torch.full_like(bias, -5.0 if bias[0] > 0 else 5.0))

    model = nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.BatchNorm2d(8, momentum=0.9),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    moving = {}
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: moving.update(copy.deepcopy(model[1].state_dict()))
    )
    trainer = Trainer(
        model,
        lambda parameters: Swinging(parameters, 0.2, momentum=0.9),
        "cross_entropy",
        ["accuracy"],
        callbacks=[watch, averaging.EMA(0.9)],
    )
    trainer.fit((x, y), epochs=20, batch_size=32, verbose=0, seed=0)
    fitting = trainer.evaluate((x, y))
    model[1].running_mean.copy_(moving["running_mean"])
    model[1].running_var.copy_(moving["running_var"])
    stale = trainer.evaluate((x, y))
    assert fitting["accuracy"] > 0.85
    assert stale["accuracy"] < fitting["accuracy"] - 0.2
