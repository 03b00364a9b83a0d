"""The kernels over rows × channels: batch norm, ReLU, dropout, pooling, sums, beside float64 torch.

Each runs on every instruction set of the machine and as the plain reference version.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
import pyconvopt.ops  # registers the shapes for tracing
from pyconvopt import _C

OPS = torch.ops.pyconvopt
CHANNELS_LAST = torch.channels_last
VECTOR_SETS = _C.available_isas()

# (N, C, H, W): channels below, at and beyond whole vectors; odd maps; one row; more than one chunk.
SHAPES = [(3, 37, 5, 7), (2, 64, 8, 8), (5, 1, 9, 3), (2, 130, 2, 3), (7, 16, 31, 33), (1, 3, 4, 2)]
LARGE = (5, 37, 79, 80)  # beyond 4 MB the rows are walked in another order


@pytest.fixture(params=[*VECTOR_SETS, "reference"])
def kernels(request):
    with pco.settings(isa=request.param):
        yield request.param


def image(*shape, scale=1.0, shift=0.0):
    return (torch.randn(shape) * scale + shift).contiguous(memory_format=CHANNELS_LAST)


def assert_close(ours, wanted, bound):
    """Largest error against the largest value."""
    assert ours.shape == wanted.shape
    scale = max(wanted.abs().max().item(), 1e-30) if wanted.numel() else 1.0
    error = (ours.double() - wanted.double()).abs().max().item() if wanted.numel() else 0.0
    assert error <= bound * scale, f"error {error:.2e} of {scale:.2e}"


def multipliers(shape, p, seed, offset):
    return OPS.dropout(torch.ones(shape).contiguous(memory_format=CHANNELS_LAST), p, seed, offset)


# --- batch norm ----------------------------------------------------------------------------------

ACTIVATIONS = {0: lambda y: y, 1: F.relu, 2: F.relu6, 3: F.hardswish}
OPTIONS = [
    {"activation": activation, "pool": pool, "p": p, "residual": residual}
    for activation, pool, p, residual in itertools.product((0, 1), (0, 1), (0.0, 0.3), (0, 1))
    if not (residual and pool) and (p == 0 or activation or pool)
]
OPTIONS += [{"activation": a, "pool": 0, "p": 0.0, "residual": 0} for a in (2, 3)]


def options_id(options):
    names = {**options, "activation": 0}
    activation = ("", "relu", "relu6", "hardswish")[options["activation"]]
    return "+".join(filter(None, [activation, *(n for n, v in names.items() if v)])) or "plain"


def forward(
    x, weight, bias, residual, mean, var, training, o, momentum=0.1, eps=1e-5, seed=7, offset=3
):
    return OPS.batch_norm_forward(
        x,
        weight,
        bias,
        residual,
        mean,
        var,
        training,
        momentum,
        eps,
        o["activation"],
        bool(o["pool"]),
        o["p"],
        seed,
        offset,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=options_id)
@pytest.mark.parametrize(
    ("shape", "training"),
    [*((s, True) for s in SHAPES), (LARGE, True), (SHAPES[0], False), (SHAPES[1], False)],
    ids=str,
)
def test_batch_norm(kernels, shape, options, training):
    c = shape[1]
    x = image(*shape, scale=2, shift=3)
    weight, bias = torch.randn(c), torch.randn(c)
    residual = image(*shape) if options["residual"] else None
    mean, var = torch.randn(c), torch.rand(c) + 0.5

    doubles = [t.double().requires_grad_() for t in (x, weight, bias)]
    residual64 = residual.double().requires_grad_() if residual is not None else None
    mean64, var64 = mean.double(), var.double()
    wanted = F.batch_norm(doubles[0], mean64, var64, doubles[1], doubles[2], training, 0.1, 1e-5)
    if residual is not None:
        wanted = wanted + residual64
    wanted = ACTIVATIONS[options["activation"]](wanted)
    if options["pool"]:
        wanted = F.max_pool2d(wanted, 2)
    if options["p"]:
        wanted = wanted * multipliers(wanted.shape, options["p"], 7, 3).double()

    y, argmax, saved_mean, saved_invstd = forward(
        x, weight, bias, residual, mean, var, training, options
    )
    assert y.is_contiguous(memory_format=CHANNELS_LAST)
    assert_close(y, wanted, 3e-6)
    assert_close(mean, mean64, 1e-6)
    assert_close(var, var64, 2e-6)

    g = image(*wanted.shape)
    wanted.backward(g.double())
    dx, dresidual, dweight, dbias = OPS.batch_norm_backward(
        g,
        x,
        y,
        argmax if options["pool"] else None,
        weight,
        saved_mean,
        saved_invstd,
        training,
        options["activation"],
        bool(options["pool"]),
        options["p"],
        True,
        residual is not None,
        bias,
    )
    assert_close(dx, doubles[0].grad, 1e-5)
    assert_close(dweight, doubles[1].grad, 3e-6)
    assert_close(dbias, doubles[2].grad, 3e-6)
    if residual is not None:
        assert_close(dresidual, residual64.grad, 1e-6)
    elif options["activation"] == 1 and not options["pool"] and not options["p"]:
        again = OPS.batch_norm_backward(
            g, x, None, None, weight, saved_mean, saved_invstd, training, True, False, 0.0, True, False,
            bias,
        )  # fmt: skip
        for from_output, from_input in zip(
            (dx, dweight, dbias), (again[0], *again[2:]), strict=True
        ):
            assert torch.equal(from_output, from_input)


def test_batch_norm_without_affine_and_statistics(kernels):
    x = image(4, 20, 6, 5)
    plain = {"activation": 0, "pool": 0, "p": 0.0}
    y, _, mean, invstd = forward(x, None, None, None, None, None, True, plain)
    assert_close(y, F.batch_norm(x.double(), None, None, training=True), 2e-6)
    assert_close(mean, x.double().mean((0, 2, 3)), 1e-5)
    g = image(4, 20, 6, 5)
    dx, _, _, _ = OPS.batch_norm_backward(
        g, x, None, None, None, mean, invstd, True, False, False, 0.0, True, False
    )
    x64 = x.double().requires_grad_()
    F.batch_norm(x64, None, None, training=True).backward(g.double())
    assert_close(dx, x64.grad, 5e-6)


def test_batch_norm_of_a_matrix(kernels):
    x = torch.randn(50, 21)
    weight, bias = torch.randn(21), torch.randn(21)
    y, _, _, _ = forward(
        x, weight, bias, None, None, None, True, {"activation": 1, "pool": 0, "p": 0.0}
    )
    wanted = F.relu(F.batch_norm(x.double(), None, None, weight.double(), bias.double(), True))
    assert y.is_contiguous()
    assert_close(y, wanted, 3e-6)


def test_input_gradient_is_optional(kernels):
    x, g = image(3, 20, 6, 6), image(3, 20, 6, 6)
    weight = torch.randn(20)
    _, _, mean, invstd = forward(x, weight, None, None, None, None, True, OPTIONS[0])
    both = [
        OPS.batch_norm_backward(
            g, x, None, None, weight, mean, invstd, True, False, False, 0.0, needed, False
        )
        for needed in (True, False)
    ]
    assert both[1][0].numel() == 0 and both[1][1].numel() == 0
    assert torch.equal(both[0][2], both[1][2]) and torch.equal(both[0][3], both[1][3])


@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0])
def test_running_statistics_follow_torch(kernels, momentum):
    x = image(3, 19, 5, 4, shift=2)
    ours, theirs = [torch.full((19,), 5.0), torch.full((19,), 2.0)], [None, None]
    theirs = [t.clone() for t in ours]
    forward(x, None, None, None, *ours, True, OPTIONS[0], momentum=momentum)
    F.batch_norm(x, *theirs, training=True, momentum=momentum)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_variance_survives_a_large_mean(kernels):
    x = image(16, 33, 20, 20, shift=1e4)
    x[0, :, 0, 0] = -1e4  # neither the first pixel nor an outlier may serve as the mean
    _, _, mean, invstd = forward(x, None, None, None, None, None, True, OPTIONS[0], eps=0.0)
    assert_close(mean, x.double().mean((0, 2, 3)), 1e-6)
    wanted = x.double().var((0, 2, 3), unbiased=False).rsqrt()
    assert_close(invstd, wanted, 1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_batch_norm_keeps_nan_to_its_channel(kernels, value):
    x = image(2, 21, 4, 4)
    x[1, 3, 2, 1] = value
    for options in OPTIONS:
        if options["residual"]:
            continue
        y, argmax, mean, invstd = forward(x, None, None, None, None, None, True, options)
        others = [c for c in range(21) if c != 3]
        assert not y[:, 3].isfinite().any() and y[:, others].isfinite().all()
        dx, _, dweight, _ = OPS.batch_norm_backward(
            torch.ones_like(y),
            x,
            y,
            argmax if options["pool"] else None,
            None,
            mean,
            invstd,
            True,
            options["activation"],
            bool(options["pool"]),
            options["p"],
            True,
            False,
        )
        assert not dx[:, 3].isfinite().any() and dx[:, others].isfinite().all()
        assert dweight[3].isnan() and dweight[others].isfinite().all()


# --- dropout -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ((0, 0, 0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 6, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(block, words):
    assert " ".join(f"{word:08x}" for word in _C.philox4x32(*block)) == words


def as_signed(word):
    return word - (1 << 64) if word >> 63 else word


@pytest.mark.parametrize("size", [1, 15, 64, 65, 1000, 5000])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0, 2**-24])
def test_dropout_mask_is_the_documented_function(kernels, size, p):
    for seed, offset in [(0, 0), (2**64 - 3, 2**63 + 5), (123456789012345, 2**32)]:
        y = OPS.dropout(torch.ones(size), p, as_signed(seed), as_signed(offset))
        scale = 1 / (1 - p) if p < 1 else 0.0
        wanted = []
        for element in range(size):
            counter = element // 64 * 16 + element % 16
            words = _C.philox4x32(
                counter, 0, offset & 0xFFFFFFFF, offset >> 32, seed & 0xFFFFFFFF, seed >> 32
            )
            uniform = (words[element // 16 % 4] >> 8) * 2.0**-24
            wanted.append(scale if uniform >= p else 0.0)
        assert torch.equal(y, torch.tensor(wanted))
        assert y[size - 1] == _C.dropout_multiplier(p, seed, offset, size - 1)
        if size > 100:
            break


def test_dropout_statistics():
    n = 1 << 20
    masks = [OPS.dropout(torch.ones(n), 0.3, 5, offset) > 0 for offset in range(4)]
    for mask in masks:
        kept = mask.double()
        assert abs(kept.mean().item() - 0.7) < 5 * math.sqrt(0.21 / n)
        for lag in (1, 16, 64):  # neighbours, words of one block, blocks
            centred = kept - 0.7
            assert abs((centred[lag:] * centred[:-lag]).mean().item()) < 5 * 0.21 / math.sqrt(n)
    for a, b in itertools.combinations(masks, 2):
        together = ((a.double() - 0.7) * (b.double() - 0.7)).mean().item()
        assert abs(together) < 5 * 0.21 / math.sqrt(n)


def test_dropout_propagates_nan_like_torch(kernels):
    x = torch.full((200,), math.inf)
    x[::2] = math.nan
    y = OPS.dropout(x, 0.5, 1, 1)
    kept = OPS.dropout(torch.ones(200), 0.5, 1, 1) > 0
    assert y[::2].isnan().all() and y[1::2][~kept[1::2]].isnan().all()
    assert (y[1::2][kept[1::2]] == math.inf).all()


def test_dropout_follows_memory_order():
    x = image(2, 20, 3, 5)
    flat = OPS.dropout(x.permute(0, 2, 3, 1).reshape(-1), 0.4, 9, 2)
    y = OPS.dropout(x, 0.4, 9, 2)
    assert y.stride() == x.stride()
    assert torch.equal(y.permute(0, 2, 3, 1).reshape(-1), flat)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout_of_channels(kernels, shape):
    x = image(*shape)
    y = OPS.dropout_channels(x, 0.4, 11, 6)
    mask = OPS.dropout(torch.ones(shape[0] * shape[1]), 0.4, 11, 6).reshape(
        shape[0], shape[1], 1, 1
    )
    assert torch.equal(y, x * mask)


# --- pooling -------------------------------------------------------------------------------


def spoiled(*shape):
    """A map with ties, NaN and infinities."""
    n, c, h, w = shape
    x = torch.randn(n * h * w * c).mul(2).round()
    x[::37], x[5::41] = math.nan, -math.inf
    return x.reshape(n, h, w, c).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "shape", [(3, 37, 5, 7), (2, 64, 8, 8), (1, 1, 2, 2), (2, 130, 3, 2)], ids=str
)
def test_max_pool(kernels, shape):
    x = image(*shape).mul(2).round()
    x[0, 0] = -math.inf
    x[:, :, 1, 1] = math.nan
    y, argmax = OPS.max_pool2x2(x)
    wanted, indices = F.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(y.nan_to_num(7), wanted.nan_to_num(7))
    rows, columns = indices // shape[3] % 2, indices % shape[3] % 2
    assert torch.equal(argmax.long(), rows * 2 + columns)
    assert argmax.dtype == torch.uint8 and y.is_contiguous(memory_format=CHANNELS_LAST)

    g = image(*wanted.shape)
    x.requires_grad_()
    F.max_pool2d(x, 2).backward(g)
    for summed in (False, True):
        dx, sums = OPS.max_pool2x2_backward(g, argmax, shape[2], shape[3], summed)
        assert torch.equal(dx, x.grad)
    assert_close(sums, x.grad.double().sum((0, 2, 3)), 1e-5)


def test_pool_stops_dead_gradients(kernels):
    x, g = image(2, 21, 6, 5), image(2, 21, 3, 2)
    _, argmax = OPS.max_pool2x2(x)
    alive, _ = OPS.max_pool2x2_backward(g, argmax, 6, 5, False)
    dead = torch.rand(argmax.shape).contiguous(memory_format=CHANNELS_LAST) < 0.5
    killed = argmax.masked_fill(dead, 4).contiguous(memory_format=CHANNELS_LAST)
    dx, sums = OPS.max_pool2x2_backward(g, killed, 6, 5, True)
    window = F.pad(F.interpolate((~dead).float(), scale_factor=2), (0, 1))
    assert torch.equal(dx, alive * window)
    assert_close(sums, (g * ~dead).double().sum((0, 2, 3)), 1e-5)


# --- ReLU and sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu(kernels, shape):
    x = spoiled(*shape)
    y = OPS.relu(x)
    assert torch.equal(y.nan_to_num(7), F.relu(x).nan_to_num(7))
    assert torch.equal(y.isnan(), x.isnan()) and y.stride() == x.stride()
    g = image(*shape)
    wanted = torch.ops.aten.threshold_backward(g, y, 0)
    for summed in (False, True):
        dx, sums = OPS.relu_backward(g, y, summed)
        assert torch.equal(dx, wanted)
    assert_close(sums, wanted.double().sum((0, 2, 3)), 1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channel_sum(kernels, shape):
    x = image(*shape, shift=3)
    assert_close(OPS.channel_sum(x), x.double().sum((0, 2, 3)), 1e-6)
    matrix = torch.randn(shape[0] * 40, shape[1])
    assert_close(OPS.channel_sum(matrix), matrix.double().sum(0), 1e-5)


# --- all of them -----------------------------------------------------------------------------


def everything(x):
    """Every result that x, weights and gradients drawn from a seed give."""
    torch.manual_seed(1)
    c = x.shape[1]
    weight, g, pooled = torch.randn(c), image(*x.shape), F.max_pool2d(x, 2)
    pooled_g = image(*pooled.shape)
    results = []
    for options in OPTIONS:
        mean, var = torch.zeros(c), torch.ones(c)
        residual = g if options["residual"] else None
        y, argmax, saved_mean, saved_invstd = forward(
            x, weight, weight, residual, mean, var, True, options
        )
        results += [y, argmax, saved_mean, saved_invstd, mean, var]
        results += OPS.batch_norm_backward(
            pooled_g if options["pool"] else g,
            x,
            y,
            argmax if options["pool"] else None,
            weight,
            saved_mean,
            saved_invstd,
            True,
            options["activation"],
            bool(options["pool"]),
            options["p"],
            True,
            bool(options["residual"]),
        )
    y, argmax = OPS.max_pool2x2(x)
    results += [y, argmax, OPS.relu(x), OPS.channel_sum(x), OPS.dropout(x, 0.3, 1, 2)]
    results += [OPS.dropout_channels(x, 0.3, 1, 2), *OPS.relu_backward(g, OPS.relu(x), True)]
    results += OPS.max_pool2x2_backward(pooled_g, argmax, x.shape[2], x.shape[3], True)
    return results


@pytest.mark.parametrize("shape", [(9, 24, 31, 33), (40, 130, 7, 6), LARGE], ids=str)
def test_thread_count_changes_no_bit(isa, shape):
    x = image(*shape)
    torch.set_num_threads(1)
    wanted = everything(x)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for a, b in zip(everything(x), wanted, strict=True):
            assert torch.equal(a, b)


def test_no_images(kernels):
    x = torch.empty(0, 5, 4, 4).contiguous(memory_format=CHANNELS_LAST)
    mean, var = torch.full((5,), 2.0), torch.ones(5)
    for options in OPTIONS:
        residual = x if options["residual"] else None
        y, argmax, *saved = forward(x, None, None, residual, mean, var, True, options)
        assert y.numel() == 0
        _, _, dweight, dbias = OPS.batch_norm_backward(
            y,
            x,
            y,
            argmax if options["pool"] else None,
            None,
            *saved,
            True,
            options["activation"],
            bool(options["pool"]),
            options["p"],
            True,
            False,
        )
        assert not dweight.any() and not dbias.any()
    assert (mean == 2).all() and (var == 1).all()
    assert not OPS.channel_sum(x).any()
    assert not OPS.relu_backward(x, x, True)[1].any()
    y, argmax = OPS.max_pool2x2(x)
    assert not OPS.max_pool2x2_backward(y, argmax, 4, 4, True)[1].any()
    assert OPS.relu(x).numel() == OPS.dropout(x, 0.5, 0, 0).numel() == 0
    assert OPS.dropout_channels(x, 0.5, 0, 0).shape == x.shape


def test_denormals_are_handled_and_the_mode_restored(kernels):
    x = torch.full((40000,), 1e-40)
    OPS.relu(x)
    assert (x * 1.0 == x).all() and x[0] != 0  # the caller's own arithmetic still keeps them


PLAIN = (None, None, None, None, None, True, 0.1, 1e-5, False, False, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: OPS.relu(x.double()), "float32"),
        (lambda x: OPS.relu(x[:, ::2]), "dense channels_last"),
        (lambda x: OPS.relu_backward(x, x[:1].clone(), False), "output_gradient of shape"),
        (lambda x: OPS.relu_backward(x, x.contiguous(), False), "same memory format"),
        (lambda x: OPS.activation(x, 99, 1.0, 1.0), "function of 0 to 6, but got 99"),
        (lambda x: OPS.activation_backward(x[:1], x, 0, 1.0, 1.0), "output_gradient of shape"),
        (lambda x: OPS.channel_sum(x.flatten()), "4 dimensions"),
        (lambda x: OPS.channel_sum(x.contiguous()), "channels_last"),
        (lambda x: OPS.dropout(x, 1.5, 0, 0), "between 0 and 1"),
        (lambda x: OPS.dropout(x, math.nan, 0, 0), "between 0 and 1"),
        (lambda x: OPS.max_pool2x2(x[:, :, :1].clone()), "2 x 2"),
        (lambda x: OPS.max_pool2x2_backward(x, x, 8, 8, False), "uint8"),
        (
            lambda x: OPS.max_pool2x2_backward(x, OPS.max_pool2x2(x)[1], 8, 8, False),
            "argmax of shape",
        ),
        (lambda x: OPS.max_pool2x2_backward(x, x, 4, 4, False), "2 x 2 pixels"),
        (
            lambda x: OPS.avg_pool2d_backward(x, 8, 8, 2, 2, 2, 2, 2, 0, True, 0),
            "at most half the kernel, but got 2, 2 and 2",
        ),
        (
            lambda x: OPS.avg_pool2d_backward(x, 3, 8, 2, 2, 2, 2, 0, 0, True, 0),
            "4 windows do not begin within a height of 3",
        ),
        (lambda x: OPS.batch_norm_forward(x, torch.ones(4), *PLAIN[1:]), "weight"),
        (
            lambda x: OPS.batch_norm_forward(x, *PLAIN[:2], x[:1].clone(), *PLAIN[3:]),
            "residual of shape",
        ),
        (lambda x: OPS.batch_norm_forward(x, *PLAIN[:5], False, *PLAIN[6:]), "training=False"),
        (lambda x: OPS.batch_norm_forward(x, *PLAIN[:10], 0.5, 0, 0), "fused behind relu or pool"),
        (
            lambda x: OPS.batch_norm_forward(x, *PLAIN[:2], x, *PLAIN[3:9], True, 0.0, 0, 0),
            "residual together",
        ),
        (
            lambda x: OPS.batch_norm_backward(
                x,
                x,
                None,
                None,
                None,
                x[0, :, 0, 0].clone(),
                x[0, :, 0, 0].clone(),
                True,
                True,
                False,
                0.5,
                True,
                False,
            ),
            "expected output",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(image(2, 5, 4, 4))


def test_operators_pass_opcheck():
    x, g = image(2, 5, 4, 4), image(2, 5, 2, 2)
    channels = torch.rand(5) + 0.5
    _, argmax = OPS.max_pool2x2(x)
    state = [torch.randn(3, 4) for _ in range(4)]
    cases = [
        (
            OPS.batch_norm_forward,
            (x, channels, channels, x, channels.clone(), channels.clone(), *PLAIN[5:]),
        ),
        (
            OPS.batch_norm_forward,
            (x, None, None, None, None, None, True, 0.1, 1e-5, True, True, 0.5, 1, 1),
        ),
        (
            OPS.batch_norm_backward,
            (g, x, None, argmax, channels, channels, channels, True, True, True, 0.5, True, False),
        ),
        (
            OPS.batch_norm_backward,
            (x, x, x, None, None, channels, channels, True, True, False, 0.0, False, True),
        ),
        (
            OPS.batch_norm_backward,
            (
                x,
                x,
                None,
                None,
                None,
                channels,
                channels,
                True,
                True,
                False,
                0.0,
                True,
                False,
                channels,
            ),
        ),
        (
            OPS.batch_norm_input_gradient,
            (x, x, None, channels, channels, channels, 1, channels, channels),
        ),
        (OPS.relu, (x,)),
        (OPS.relu_backward, (x, x, True)),
        (OPS.activation, (x, 3, 1.0, 1.0)),
        (OPS.activation_backward, (x, x, 3, 1.0, 1.0)),
        (OPS.channel_sum, (x,)),
        (OPS.dropout, (x, 0.5, 1, 2)),
        (OPS.dropout_channels, (x, 0.5, 1, 2)),
        (OPS.max_pool2x2, (x,)),
        (OPS.max_pool2x2_backward, (g, argmax, 4, 4, True)),
        (OPS.max_pool2d, (x, channels, None, channels, channels, 1, 2, 2, 3, 3, 2, 2, 1, 1)),
        (OPS.max_pool2d_backward, (g, argmax, 4, 4, 3, 3, 2, 2, 1, 1)),
        (OPS.avg_pool2d_backward, (g, 4, 4, 3, 3, 2, 2, 1, 1, False, 0)),
        (
            OPS.sgd_step_,
            (state[:1], state[1:2], state[2:3], 0.1, 0.9, 0.0, 0.0, False, False, False),
        ),
        (
            OPS.adam_step_,
            (
                state[:1],
                state[1:2],
                state[2:3],
                [state[3].abs()],
                [torch.tensor(1.0)],
                0.1,
                0.9,
                0.99,
                1e-8,
                0.0,
                False,
                False,
            ),
        ),
    ]
    for op, arguments in cases:
        torch.library.opcheck(op.default, arguments)
