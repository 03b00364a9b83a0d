"""`functional.cross_entropy` and `nn.CrossEntropyLoss` beside torch's."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F

import pyconvopt as pco
from pyconvopt import losses
from pyconvopt.functional import cross_entropy
from pyconvopt.functional.loss import NARROW, SMALLEST, SMALLEST_NARROW
from pyconvopt.models import Sequential
from tests.nn.helpers import assert_same

ROWS, CLASSES = 300, 90


def problem(rows=ROWS, classes=CLASSES):
    target = torch.randint(0, classes, (rows,))
    target[5::7] = -100
    return 3 * torch.randn(rows, classes), target


def by_kernel(loss):
    return loss.grad_fn is not None and "CrossEntropyFunction" in loss.grad_fn.name()


def compared(function, x, *arguments, g=None, **options):
    """Loss and gradient by the function."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    loss = function(leaf, *arguments, **options)
    loss.backward(g)
    return loss, leaf.grad


def test_signatures_are_torchs():
    ours, theirs = (list(inspect.signature(f).parameters) for f in (cross_entropy, F.cross_entropy))
    assert ours == theirs
    assert inspect.signature(pco.nn.CrossEntropyLoss) == inspect.signature(
        torch.nn.CrossEntropyLoss
    )


OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.1},
    {"ignore_index": 3, "reduction": "none", "label_smoothing": 0.2},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradient(options, weighted):
    x, target = problem()
    if "ignore_index" in options:
        target[target == -100] = 3
    weight = torch.rand(CLASSES) if weighted else None
    g = torch.randn(ROWS) if options.get("reduction") == "none" else None
    loss, gradient = compared(cross_entropy, x, target, weight, g=g, **options)
    wanted, wanted_gradient = compared(F.cross_entropy, x, target, weight, g=g, **options)
    assert by_kernel(loss)
    assert_same(loss, wanted, 2e-6)
    assert_same(gradient, wanted_gradient, 1e-5)
    with torch.no_grad():
        assert torch.equal(cross_entropy(x, target, weight, **options), loss)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_maps_in_channels_last(reduction):
    x = torch.randn(3, 21, 20, 25).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, 21, (3, 20, 25))
    g = torch.randn(3, 20, 25) if reduction == "none" else torch.tensor(0.5)
    for targets in (target, target.transpose(1, 2).contiguous().transpose(1, 2)):
        loss, gradient = compared(cross_entropy, x, targets, g=g, reduction=reduction)
        wanted, wanted_gradient = compared(F.cross_entropy, x, targets, g=g, reduction=reduction)
        assert_same(loss, wanted, 2e-6)
        assert_same(gradient, wanted_gradient, 1e-5)
        assert gradient.stride() == x.stride()
    assert pco.explain(Losses(target), x).rows[0]["kernel"] == "softmax_rows"


class Losses(torch.nn.Module):
    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, x):
        return cross_entropy(x, self.target)


def test_explain_names_the_kernel():
    x, target = problem()
    rows = pco.explain(Losses(target), x).rows
    assert [(r["op"], r["pass"], r["kernel"]) for r in rows] == [
        ("cross_entropy", "forward", "softmax_rows"),
        ("cross_entropy", "backward", "softmax_rows"),
    ]


def test_few_logits_are_torchs():
    rows = SMALLEST // 100
    assert by_kernel(cross_entropy(*gradient_wanted(rows, 100)))
    assert not by_kernel(cross_entropy(*gradient_wanted(rows - 1, 100)))
    narrow = NARROW // 2
    rows = SMALLEST_NARROW // narrow
    assert by_kernel(cross_entropy(*gradient_wanted(rows, narrow)))
    assert not by_kernel(cross_entropy(*gradient_wanted(rows - 1, narrow)))


def gradient_wanted(rows, classes):
    x, target = problem(rows, classes)
    return x.requires_grad_(), target


def test_what_the_kernel_does_not_take_is_torchs():
    x, target = problem()
    kept = target.clamp(min=0)
    cases = [
        (x.double(), target, {}),
        (x, torch.softmax(torch.randn(ROWS, CLASSES), 1), {"label_smoothing": 0.1}),
        (x.t().contiguous().t(), target, {}),
        (x, kept.to(torch.uint8), {}),
        (x, kept, {"reduce": False}),
        (x.view(3, 100, CLASSES).transpose(1, 2), target.view(3, 100), {}),
        (x[0], target[0], {}),
        (x[:0], target[:0], {}),
        (torch.randn(3, 21, 20, 25), torch.zeros(3, 20, 25, dtype=torch.int64), {}),
        (x, target, {"size_average": False}),
        (x, target, {"weight": torch.rand(2 * CLASSES)[::2]}),
    ]
    for logits, labels, options in cases:
        leaf = logits.detach().requires_grad_()
        loss = cross_entropy(leaf, labels, **options)
        assert not by_kernel(loss)
        assert torch.equal(
            loss.nan_to_num(7), F.cross_entropy(leaf, labels, **options).nan_to_num(7)
        )


def test_autocast_is_torchs():
    x, target = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(x.requires_grad_(), target)
        assert not by_kernel(loss) and torch.equal(loss, F.cross_entropy(x, target))


@pytest.mark.parametrize("wrong", [-1, CLASSES, 10**12])
@pytest.mark.parametrize("rows", [3, ROWS])
def test_target_out_of_range_is_an_index_error(rows, wrong):
    x, target = problem(rows)
    target[1] = wrong
    message = rf"^Target {wrong} is out of bounds: classes are 0 \.\.\. {CLASSES - 1}, or ignore_index -100"
    for logits in (x, x.clone().requires_grad_()):
        with pytest.raises(IndexError, match=message):
            cross_entropy(logits, target)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "median"},
        {"label_smoothing": 1.5},
        {"weight": torch.ones(3)},
        {"weight": torch.ones(CLASSES, requires_grad=True)},
    ],
    ids=str,
)
def test_bad_arguments_get_torchs_error(options):
    x, target = problem()
    with pytest.raises((ValueError, RuntimeError)) as wanted:
        F.cross_entropy(x, target, **options)
    with pytest.raises(wanted.type) as got:
        cross_entropy(x, target, **options)
    assert str(got.value) == str(wanted.value)
    with pytest.raises(ValueError, match="Expected input batch_size"):
        cross_entropy(x, target[:-1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradient_of_the_gradient(options, weighted):
    x, target = problem()
    target = target.clamp(min=0)
    weight = torch.rand(CLASSES) if weighted else None
    results = []
    for function, dtype in ((cross_entropy, torch.float32), (F.cross_entropy, torch.float64)):
        leaf = x.to(dtype).requires_grad_()
        loss = function(leaf, target, None if weight is None else weight.to(dtype), **options)
        assert by_kernel(loss) == (dtype is torch.float32)
        (first,) = torch.autograd.grad(loss.square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((first.detach().float(), second.float()))
    for ours, wanted in zip(*results, strict=True):
        assert_same(ours, wanted, 5e-5)  # torch's own operations in float32: up to 2e-5


def test_gradcheck_in_double():
    x, target = problem(7, 5)
    weight = torch.rand(5).double()

    def loss(x):
        return cross_entropy(x, target, weight, label_smoothing=0.1)

    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(loss, x) and torch.autograd.gradgradcheck(loss, x)


def test_a_retained_graph_gives_the_gradient_again():
    x, target = problem()
    leaf = x.clone().requires_grad_()
    loss = cross_entropy(leaf, target)
    loss.backward(torch.tensor(3.0), retain_graph=True)
    first = leaf.grad.clone()
    leaf.grad.zero_()  # it was given away: writing over it spoils nothing
    loss.backward(torch.tensor(3.0))
    assert torch.equal(leaf.grad, first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    assert_same(first, compared(F.cross_entropy, x, target, g=torch.tensor(3.0))[1], 1e-5)


def test_logits_written_over_are_noticed():
    x, target = problem()
    y = x.requires_grad_() * 1
    loss = cross_entropy(y, target)
    y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_module_is_a_drop_in():
    weight = torch.rand(CLASSES)
    arguments = {"weight": weight, "ignore_index": 2, "label_smoothing": 0.1, "reduction": "sum"}
    ours, theirs = (n.CrossEntropyLoss(**arguments) for n in (pco.nn, torch.nn))
    assert isinstance(ours, torch.nn.CrossEntropyLoss) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    x, target = problem()
    target[target == -100] = 2
    (loss, gradient), (wanted, wanted_gradient) = (compared(f, x, target) for f in (ours, theirs))
    assert by_kernel(loss)
    assert_same(loss, wanted, 2e-6)
    assert_same(gradient, wanted_gradient, 1e-5)


class WithLoss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.loss = torch.nn.Linear(8, CLASSES), torch.nn.CrossEntropyLoss()

    def forward(self, x, target):
        return self.loss(self.dense(x), target)


def test_accelerate_swaps_it_and_restore_gives_it_back():
    model = WithLoss()
    fast = pco.accelerate(model)
    assert type(fast.loss) is pco.nn.CrossEntropyLoss
    x, (_, target) = torch.randn(ROWS, 8), problem()
    loss = fast(x, target)
    assert by_kernel(loss)
    assert_same(loss, model(x, target), 2e-6)
    assert type(pco.restore(fast).loss) is torch.nn.CrossEntropyLoss


def test_compilation_and_transforms_see_torchs_operations():
    x, target = problem()
    exported = torch.export.export(Losses(target), (x,))
    assert "pyconvopt" not in str(exported.graph)
    several = torch.func.vmap(cross_entropy)(x.view(1, ROWS, CLASSES), target.view(1, ROWS))
    assert_same(several[0], F.cross_entropy(x, target), 2e-6)


def test_losses_by_name_use_it():
    x, target = problem()
    target = target.clamp(min=0)
    for name in ("cross_entropy", "sparse_categorical_crossentropy"):
        loss = losses.get(name)(x.clone().requires_grad_(), target, from_logits=True)
        assert by_kernel(loss)
        assert_same(loss, F.cross_entropy(x, target), 2e-6)


def test_a_loss_of_this_library_takes_in_the_softmax():
    model = Sequential([pco.layers.Activation("softmax", input_shape=(2,))])
    model.compile("sgd", pco.nn.CrossEntropyLoss())
    assert model.evaluate([[200.0, 0.0]], [1], verbose=0) == pytest.approx(200.0)
