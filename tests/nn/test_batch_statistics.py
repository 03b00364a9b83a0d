"""Ghost batches, batch renormalisation, filter response and synchronised batch normalisation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.multiprocessing as multiprocessing

import pyconvopt as pco

from .helpers import assert_same, assert_same_step


class TestGhost:
    @pytest.mark.parametrize("momentum", [0.1, None])
    def test_is_batch_norm_of_each_part(self, momentum):
        x = torch.randn(11, 3, 4, 5) * 3 + 1
        ours = pco.nn.GhostBatchNorm2d(3, ghost_size=4, momentum=momentum)
        theirs = torch.nn.BatchNorm2d(3, momentum=momentum)
        wanted = torch.cat([theirs(part) for part in (x[:4], x[4:8], x[8:])])
        assert_same(ours(x), wanted)
        assert_same(ours.running_mean, theirs.running_mean)
        assert_same(ours.running_var, theirs.running_var)
        assert ours.num_batches_tracked == theirs.num_batches_tracked == 3
        assert_same(ours.eval()(x), theirs.eval()(x))

    def test_small_batches_are_plain_batch_norm(self):
        x = torch.randn(8, 3, 4, 4)
        assert_same_step(pco.nn.GhostBatchNorm2d(3, 8), torch.nn.BatchNorm2d(3), x)

    def test_refusal(self):
        with pytest.raises(ValueError, match="ghost_size must be a whole number >= 1, got 0"):
            pco.nn.GhostBatchNorm2d(3, 0)


class TestRenorm:
    def test_is_batch_norm_at_its_tightest(self):
        x = torch.randn(6, 4, 5, 5)
        tight = pco.nn.BatchRenorm2d(4, r_max=1.0, d_max=0.0)
        assert_same_step(tight, torch.nn.BatchNorm2d(4), x)

    def test_is_the_running_statistics_within_the_bounds(self):
        """Nothing clipped: r and d undo the batch's statistics."""
        layer = pco.nn.BatchRenorm2d(4)
        with torch.no_grad():
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.6, 1.5)
        x = torch.randn(6, 4, 5, 5)
        frozen = copy.deepcopy(layer).eval()
        assert_same(layer(x), frozen(x))

    def test_clipping_and_gradient_by_formula(self):
        layer = pco.nn.BatchRenorm2d(2, eps=1e-12, r_max=1.5, d_max=0.5).double()
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
        x = (torch.randn(4, 2, 3, 3, dtype=torch.float64) * 4 + 2).requires_grad_()
        mean = x.mean((0, 2, 3), keepdim=True)
        deviation = x.var((0, 2, 3), correction=0, keepdim=True).sqrt()
        # Running statistics 0 and 1: r is about 4, so 1.5; d about 2, so 0.5.
        weight, bias = (each.view(1, 2, 1, 1) for each in (layer.weight, layer.bias))
        wanted = ((x - mean) / deviation * 1.5 + 0.5) * weight + bias
        g = torch.randn_like(wanted)
        inputs = (x, layer.weight, layer.bias)
        expected = torch.autograd.grad(wanted, inputs, g)
        y = layer(x)
        torch.testing.assert_close(y, wanted)
        for ours, reference in zip(torch.autograd.grad(y, inputs, g), expected, strict=True):
            torch.testing.assert_close(ours, reference)
        assert_same(layer.running_mean, 0.1 * mean.flatten().detach(), 1e-6)

    def test_bounds_follow_the_batches(self):
        layer = pco.nn.BatchRenorm2d(2, r_max=lambda step: 1 + step, d_max=lambda step: step / 2)
        for step in range(3):
            assert layer.bounds() == (1 + step, step / 2)
            layer(torch.randn(4, 2, 3, 3))
        with pytest.raises(ValueError, match="r_max must be 1 or more"):
            pco.nn.BatchRenorm2d(2, r_max=0.5)(torch.randn(4, 2, 3, 3))

    def test_without_weights(self):
        layer = pco.nn.BatchRenorm2d(2, affine=False, r_max=1, d_max=0)
        x = torch.randn(4, 2, 3, 3)
        assert_same(layer(x), torch.nn.BatchNorm2d(2, affine=False)(x))


class TestFilterResponse:
    def test_by_hand(self):
        layer = pco.nn.FilterResponseNorm2d(2, eps=0.0)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([2.0, 1.0]))
            layer.bias.copy_(torch.tensor([0.0, 1.0]))
            layer.tau.copy_(torch.tensor([-1.0, 0.5]))
        x = torch.tensor([[[[3.0, -1.0]], [[1.0, -7.0]]]])  # ν² = 5 and 25
        wanted = [[[2 * 3 / 5**0.5, -2 / 5**0.5]], [[1 + 1 / 5, 0.5]]]
        torch.testing.assert_close(layer(x), torch.tensor([wanted]))
        assert layer(x).argmin() == 1

    def test_a_sample_does_not_depend_on_the_batch(self):
        layer = pco.nn.FilterResponseNorm2d(3)
        x = torch.randn(5, 3, 4, 4)
        torch.testing.assert_close(layer(x)[2:3], layer(x[2:3]))

    def test_parameters_and_gradients(self):
        layer = pco.nn.FilterResponseNorm2d(3, learned_eps=True).double()
        assert [name for name, _ in layer.named_parameters()] == [
            "weight", "bias", "tau", "extra_eps",
        ]  # fmt: skip
        plain = pco.nn.FilterResponseNorm2d(3, tlu=False)
        assert len(list(plain.parameters())) == 2
        assert torch.autograd.gradcheck(layer, torch.randn(2, 3, 2, 2).double().requires_grad_())
        pickle.loads(pickle.dumps(layer))

    def test_refusal(self):
        with pytest.raises(
            ValueError, match=r"expected an input \(N, 3, H, W\), got \(2, 4, 1, 1\)"
        ):
            pco.nn.FilterResponseNorm2d(3)(torch.zeros(2, 4, 1, 1))


# --- synchronised batch norm: two processes against one with the joined batch

SIZES = (5, 3)


def problem():
    torch.manual_seed(7)
    layer = pco.nn.SyncBatchNorm(4)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    x = torch.randn(8, 4, 3, 3) * 2 + 5
    return layer, x, torch.randn(x.shape)


def one_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    layer, x, g = problem()
    x, g = x.split(SIZES)[rank].clone().requires_grad_(), g.split(SIZES)[rank]
    y = layer(x)
    y.backward(g)
    one = pco.nn.SyncBatchNorm(2)
    refusal = ""
    try:  # two values a channel in all: enough; one in all is not
        one(torch.randn(1, 2))
        one(torch.randn(1 - rank, 2))
    except ValueError as error:
        refusal = str(error)
    results = {
        "y": y.detach(),
        "x": x.grad,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
        "eval": layer.eval()(x).detach(),
        "refusal": refusal,
    }
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("training", [True, False])
def test_renorm_says_which_shape_it_wants(training):
    with pytest.raises(ValueError, match=r"expected an input \(N, 16, H, W\), got \(2, 8, 3, 3\)"):
        pco.nn.BatchRenorm2d(16).train(training)(torch.randn(2, 8, 3, 3))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_two_processes_are_one_with_the_joined_batch(tmp_path):
    multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    layer, x, g = problem()
    joined = torch.nn.BatchNorm2d(4).double()
    joined.load_state_dict(layer.state_dict())
    x = x.double().requires_grad_()
    y = joined(x)
    y.backward(g.double())
    for name, wanted in (("y", y.detach()), ("x", x.grad)):
        got = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(got, wanted.float(), rtol=1e-6, atol=1e-6)
    for name, wanted in (("weight", joined.weight.grad), ("bias", joined.bias.grad)):
        # A process' own share: DistributedDataParallel adds them up.
        got = parts[0][name] + parts[1][name]
        torch.testing.assert_close(got, wanted.float(), rtol=1e-5, atol=1e-5)
    for part in parts:
        torch.testing.assert_close(part["mean"], joined.running_mean.float(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(part["var"], joined.running_var.float(), rtol=1e-6, atol=1e-6)
        assert "Expected more than 1 value per channel" in part["refusal"]
    evaluated = torch.cat([part["eval"] for part in parts])
    torch.testing.assert_close(evaluated, joined.eval()(x).detach().float(), rtol=1e-5, atol=1e-5)


def test_alone_it_is_batch_norm():
    x = torch.randn(6, 4, 5, 5)
    assert_same_step(pco.nn.SyncBatchNorm(4), torch.nn.BatchNorm2d(4), x)
    assert_same_step(pco.nn.SyncBatchNorm(4), torch.nn.BatchNorm1d(4), torch.randn(6, 4))


def test_conversion_of_a_model():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    state = model.state_dict()
    converted = pco.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[1]) is pco.nn.SyncBatchNorm
    assert all(torch.equal(converted.state_dict()[name], state[name]) for name in state)
    assert converted(torch.randn(2, 1, 6, 6)).shape == (2, 4, 4, 4)
