"""Transposed and one-dimensional convolution beside torch's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco

FORMATS = [torch.contiguous_format, torch.channels_last]

# in and out channels, kernel, stride, padding, output_padding, groups, bias, dilation; height, width
TRANSPOSED = [
    ((32, 48, 3, 1, 1), (17, 20)),  # Winograd in every pass
    ((32, 32, 3, 1, 0, 0, 1, False), (9, 8)),
    ((24, 24, 3, 1, 1, 0, 24), (14, 15)),  # depthwise
    ((24, 24, 3, 2, 1, 1, 24), (7, 9)),
    ((16, 8, 2, 2), (5, 6)),
    ((8, 6, (3, 2), (3, 2), (1, 0), (2, 1), 2), (5, 6)),
    ((6, 4, 3, 1, 1, 1, 1, True, 2), (6, 5)),  # output_padding below the dilation alone
    ((8, 3, 3, 2, 1, 1), (6, 7)),
]


def gradients(module, x):
    leaf = x.clone().requires_grad_()
    module.zero_grad()
    y = module(leaf)
    torch.manual_seed(7)
    y.backward(torch.randn(y.shape).to(y.dtype))
    return y.detach(), leaf.grad, *(p.grad for p in module.parameters())


def assert_same(ours, theirs, x, bound=3e-5):
    wanted = gradients(theirs, x.double())
    for got, want in zip(gradients(ours, x), wanted, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= bound * want.square().mean().sqrt()


def pair_of(name, arguments):
    ours, theirs = getattr(pco.nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    theirs.load_state_dict(ours.state_dict())
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    return pickle.loads(pickle.dumps(copy.deepcopy(ours))), theirs.double()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize(("arguments", "size"), TRANSPOSED, ids=str)
def test_conv_transpose_module(arguments, size, memory_format, isa):
    ours, theirs = pair_of("ConvTranspose2d", arguments)
    x = torch.randn(3, arguments[0], *size).contiguous(memory_format=memory_format)
    assert_same(ours, theirs, x)
    assert ours(x).stride() == theirs.float()(x).stride()


def test_output_size_and_channels_last_weights():
    ours, theirs = pair_of("ConvTranspose2d", (32, 32, 3, 1, 1))
    ours, theirs = (m.float().to(memory_format=torch.channels_last) for m in (ours, theirs))
    x = torch.randn(2, 32, 8, 8)
    y, wanted = (m(x, output_size=[8, 8]) for m in (ours, theirs))
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    assert y.stride() == wanted.stride()
    with pytest.raises(ValueError, match="requested an output size"):
        ours(x, output_size=[9, 8])


def kernels(module, x):
    return {row["pass"]: row["kernel"] for row in pco.explain(module, x).rows}


def test_explain_names_the_convolutions_kernels_with_their_roles_exchanged():
    x = torch.randn(4, 64, 16, 16)
    wanted = kernels(pco.nn.Conv2d(64, 64, 3, padding=1), x)
    found = kernels(pco.nn.ConvTranspose2d(64, 64, 3, padding=1), x)
    assert all("winograd" in kernel for kernel in found.values())
    assert (
        found["forward"] == wanted["data_gradient"] and found["data_gradient"] == wanted["forward"]
    )
    assert found["weight_gradient"] == wanted["weight_gradient"]


def test_gradient_of_the_gradient():
    results = []
    for library, dtype in ((pco, torch.float32), (F, torch.float64)):
        torch.manual_seed(0)
        x, w = (torch.randn(*s) for s in ((2, 32, 6, 7), (32, 32, 3, 3)))
        x, w, b = (t.to(dtype).requires_grad_() for t in (x, w / 17, torch.randn(32)))
        function = getattr(library, "functional", library).conv_transpose2d
        y = function(x, w, b, padding=1)
        first = torch.autograd.grad(y.pow(3).sum(), (x, w, b), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w, b))
        results.append([*first, *second])
    for got, want in zip(*results, strict=True):
        assert (got - want).abs().max() <= 2e-4 * want.square().mean().sqrt()


@pytest.mark.parametrize(
    ("shape", "weight", "options"),
    [
        ((2, 8, 5, 5), (7, 8, 3, 3), {}),
        ((2, 32, 5, 5), (32, 32, 3, 3), {"output_padding": 1}),
        ((2, 32, 5, 5), (32, 32, 3, 3), {"padding": -1}),
        ((2, 32, 5, 5), (32, 32, 3, 3), {"stride": 0}),
        ((2, 32, 1, 1), (32, 32, 3, 3), {"padding": 2}),
        ((2, 32, 5, 5), (32, 32, 3, 3), {"bias": torch.ones(31)}),
        ((5, 5), (32, 32, 3, 3), {}),
    ],
)
def test_bad_arguments_get_torchs_error(shape, weight, options):
    for function in (pco.functional.conv_transpose2d, F.conv_transpose2d):
        with pytest.raises((RuntimeError, ValueError)):
            function(torch.ones(shape), torch.ones(weight), **options)


def test_activation_and_a_map_without_batch():
    x, w = torch.randn(32, 8, 8), torch.randn(32, 32, 3, 3)
    wanted = F.conv_transpose2d(x, w, padding=1).relu()
    for batch in (x, x[None]):
        y = pco.functional.conv_transpose2d(batch, w, padding=1, activation="relu")
        torch.testing.assert_close(y.view_as(wanted), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [(3, 16, 3), (8, 8, 5, 2, 2, 1, 8), (8, 12, 3, 1, "same", 2, 4), (4, 6, 3, 1, 1, 1, 1, False, "circular"),
     (16, 16, 3, 3)],
    ids=str,
)  # fmt: skip
def test_conv1d_module(arguments, isa):
    ours, theirs = pair_of("Conv1d", arguments)
    for x in (torch.randn(3, arguments[0], 31), torch.randn(3, 31, arguments[0]).transpose(1, 2)):
        assert_same(ours, theirs, x)
    assert ours(x[0]).shape == theirs.float()(x[0]).shape


def test_conv1d_runs_here_in_the_order_of_channels_last():
    layer, x = pco.nn.Conv1d(32, 32, 3, groups=32), torch.randn(2, 20, 32).transpose(1, 2)
    assert kernels(layer, x)["forward"] == "depthwise"
    assert set(kernels(layer, x.contiguous()).values()) == {"torch"}


def test_conv1d_arguments():
    x, w = torch.randn(2, 4, 20), torch.randn(6, 2, 3)
    options = {"stride": (2,), "padding": (1,), "dilation": 2, "groups": 2}
    torch.testing.assert_close(pco.functional.conv1d(x, w, **options), F.conv1d(x, w, **options))
    for bad in (torch.ones(4), torch.ones(2, 3, 20), torch.ones(1, 2, 4, 20)):
        with pytest.raises(RuntimeError):
            pco.functional.conv1d(bad, w, groups=2)
    with pytest.raises(RuntimeError):
        pco.functional.conv1d(x, w, stride=(1, 2), groups=2)


def test_accelerate_swaps_them_and_restore_gives_them_back():
    plain = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(32, 32, 3), torch.nn.Flatten(2), torch.nn.Conv1d(32, 4, 3)
    )
    fast = pco.accelerate(plain)
    assert type(fast[0]) is pco.nn.ConvTranspose2d and type(fast[2]) is pco.nn.Conv1d
    x = torch.randn(2, 32, 6, 6)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-4)
    assert [type(m) for m in pco.restore(fast)] == [type(m) for m in plain]
