"""torch's own table of module tests, run on the modules of the same names here.

`module_db` lists for each module of torch how it may be constructed and called, with references and
wrong inputs; torch runs its module tests from it. Every entry for a module that this library
replaces is run twice: on our class, and on what `accelerate` makes of torch's.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import pyconvopt as pco
from pyconvopt.accelerate.classes import LAYERS

from .helpers import assert_same, same_layout

pytest.importorskip("expecttest", reason="torch's module table needs expecttest")
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.common_utils import noncontiguous_like

ENTRIES = {info.module_cls: info for info in module_db if info.module_cls in LAYERS}
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-12}  # and what an error may be, of the RMS


def inputs_of(cls, dtype, training, requires_grad=False):
    """The table's inputs for a module, drawn anew."""
    return ENTRIES[cls].module_inputs_func(
        ENTRIES[cls], "cpu", dtype, requires_grad=requires_grad, training=training
    )


def per_case(applies=lambda each: True):
    """Runs the test for every input of the table that it applies to."""
    chosen = [
        pytest.param(cls, index, id=f"{cls.__name__}-{index}-{each.desc or 'plain'}")
        for cls in ENTRIES
        for index, each in enumerate(inputs_of(cls, torch.float32, True))
        if applies(each)
    ]
    return pytest.mark.parametrize(("cls", "index"), chosen)


def of_four_axes(each):
    inputs = (*each.forward_input.args, *each.forward_input.kwargs.values())
    return all(x.dim() == 4 for x in inputs)


per_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
ROUTES = {
    "class": lambda cls: LAYERS[cls],
    "accelerate": lambda cls: lambda *args, **kwargs: pco.accelerate(cls(*args, **kwargs)),
}
per_route = pytest.mark.parametrize("route", ROUTES)


class Case:
    """torch's module and ours made with the same seed, and the inputs of one call."""

    def __init__(self, cls, index, route, dtype, training=True, requires_grad=False):
        self.case = inputs_of(cls, dtype, training, requires_grad)[index]
        made_with = self.case.constructor_input
        self.args, self.kwargs = self.case.forward_input.args, self.case.forward_input.kwargs
        modules = []
        for make in (ROUTES[route](cls), cls):
            torch.manual_seed(1)
            modules.append(make(*made_with.args, **made_with.kwargs).to(dtype).train(training))
            if ENTRIES[cls].is_lazy:
                modules[-1](*self.args, **self.kwargs)
        self.ours, self.theirs = modules
        assert type(self.ours) is LAYERS[type(self.theirs)]

    def tensors(self):
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, torch.Tensor)]

    def changed(self, change):
        """The inputs with every tensor changed."""
        args = [change(x) if isinstance(x, torch.Tensor) else x for x in self.args]
        kwargs = {
            k: change(x) if isinstance(x, torch.Tensor) else x for k, x in self.kwargs.items()
        }
        return args, kwargs

    def step(self, model, change=lambda x: x):
        """The outputs, and the gradients of the inputs and parameters."""
        args, kwargs = self.changed(
            lambda x: change(x.detach()).requires_grad_(x.is_floating_point())
        )
        outputs = tupled(model(*args, **kwargs))
        wanted = [x for x in (*args, *kwargs.values()) if getattr(x, "requires_grad", False)]
        wanted += list(model.parameters())
        torch.manual_seed(3)
        y = outputs[0]  # indices, which a max-pool may give too, have no gradient
        return outputs, torch.autograd.grad(y, wanted, torch.randn(y.shape, dtype=y.dtype))


def as_double(x):
    """Class numbers stay as they are."""
    return x.double() if x.is_floating_point() else x


def tupled(outputs):
    """A max-pool may give two: its maxima and where they were."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_same_outputs(ours, wanted, bound):
    for y, other in zip(tupled(ours), tupled(wanted), strict=True):
        assert_same(y, other, bound)
        assert same_layout(y, other)


def assert_same_steps(ours, theirs, bound):
    (outputs, gradients), (wanted, others) = ours, theirs
    assert_same_outputs(outputs, wanted, bound)
    # A sum over the elements is exact but for rounding of what was summed up.
    size = max((g.square().mean().sqrt().item() for g in others if g.numel()), default=1.0)
    for g, other in zip(gradients, others, strict=True):
        assert g.shape == other.shape and g.dtype == other.dtype
        if g.numel():
            rms = max(other.square().mean().sqrt().item(), size / 100)
            assert (g - other).abs().max().item() <= 10 * bound * rms


def test_what_the_table_lacks():
    missing = {nn.Dropout, nn.Dropout2d, nn.SyncBatchNorm, nn.LazyBatchNorm2d, nn.LazyLinear}
    assert set(LAYERS) - set(ENTRIES) == missing


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@per_route
@per_mode
@per_case()
def test_forward_and_gradients(cls, index, training, route, dtype):
    case = Case(cls, index, route, dtype, training)
    for _ in range(2):
        assert_same_steps(case.step(case.ours), case.step(case.theirs), DTYPES[dtype])
    for buffer, other in zip(case.ours.buffers(), case.theirs.buffers(), strict=True):
        assert_same(buffer, other, DTYPES[dtype])


@per_route
@per_mode
@per_case(lambda each: each.reference_fn is not None)
def test_references(cls, index, training, route):
    case = Case(cls, index, route, torch.float32, training)
    with torch.no_grad():
        y = case.ours(*case.args, **case.kwargs)
        wanted = case.case.reference_fn(case.theirs, *case.args, **case.kwargs)
    torch.testing.assert_close(y, wanted, equal_nan=True)  # a mean over targets all ignored


@per_mode
@per_case()
def test_strided_inputs(cls, index, training):
    case = Case(cls, index, "class", torch.float32, training)
    strided = case.step(case.ours, noncontiguous_like)
    assert_same_steps(strided, case.step(case.theirs, noncontiguous_like), 1e-5)
    for y, dense in zip(strided[0], case.step(case.theirs)[0], strict=True):
        assert_same(y, dense, 1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@per_route
@per_mode
@per_case(of_four_axes)
def test_memory_formats(cls, index, training, route, memory_format):
    case = Case(cls, index, route, torch.float32, training)
    for model in (case.ours, case.theirs):
        model.to(memory_format=memory_format)
    for input_format in (torch.contiguous_format, torch.channels_last):
        laid = partial(torch.Tensor.contiguous, memory_format=input_format)
        assert_same_steps(case.step(case.ours, laid), case.step(case.theirs, laid), 1e-5)


@per_mode
@per_case()
def test_gradcheck(cls, index, training):
    case = Case(cls, index, "class", torch.float64, training, requires_grad=True)
    info = ENTRIES[cls]
    parameters = list(case.ours.parameters())
    names = [name for name, _ in case.ours.named_parameters()]
    inputs = case.tensors()

    def function(*flat):
        tensors, weights = iter(flat[: len(inputs)]), flat[len(inputs) :]
        args, kwargs = case.changed(lambda _: next(tensors))
        state = dict(zip(names, weights, strict=True))
        state |= {name: buffer.clone() for name, buffer in case.ours.named_buffers()}
        return torch.func.functional_call(case.ours, state, tuple(args), kwargs)

    result = function(*inputs, *parameters)
    if isinstance(result, torch.Tensor) and result.isnan().any():
        pytest.skip("the targets drawn are all ignored: a mean over nothing has no derivative")
    options = {"nondet_tol": info.gradcheck_nondet_tol}
    assert gradcheck(function, (*inputs, *parameters), **options)
    if info.supports_gradgrad:
        assert gradgradcheck(function, (*inputs, *parameters), **options)


@per_route
@per_mode
@per_case()
def test_copies_and_files(cls, index, training, route):
    case = Case(cls, index, route, torch.float32, training)
    file = io.BytesIO()
    torch.save(case.ours, file)
    file.seek(0)
    copies = [
        copy.deepcopy(case.ours),
        pickle.loads(pickle.dumps(case.ours)),
        torch.load(file, weights_only=False),
    ]
    wanted = case.theirs(*case.args, **case.kwargs)
    for twin in copies:
        assert type(twin) is type(case.ours) and twin.training is training
        assert_same_outputs(twin(*case.args, **case.kwargs), wanted, 1e-5)


@per_case()
def test_printed_form_and_state(cls, index):
    case = Case(cls, index, "class", torch.float32)
    assert repr(case.ours) == repr(case.theirs)
    ours, theirs = case.ours.state_dict(), case.theirs.state_dict()
    assert list(ours) == list(theirs) and ours._metadata == theirs._metadata
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs), "one seed, the same weights"
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    case.theirs.load_state_dict(torch.load(file, weights_only=True))


@per_case()
def test_device_and_dtype_of_construction(cls, index):
    """As torch's: taken where torch's class takes them, and refused where it does not."""
    made_with = inputs_of(cls, torch.float32, True)[index].constructor_input
    assert inspect.signature(LAYERS[cls]) == inspect.signature(cls)
    takes = "dtype" in inspect.signature(cls).parameters
    for options in ({"device": "meta"}, {"dtype": torch.float64}):
        if not takes:
            with pytest.raises(TypeError, match="unexpected keyword argument"):
                LAYERS[cls](*made_with.args, **made_with.kwargs, **options)
            continue
        ours = LAYERS[cls](*made_with.args, **made_with.kwargs, **options)
        theirs = cls(*made_with.args, **made_with.kwargs, **options)
        for (name, t), (other_name, other) in zip(
            ours.state_dict().items(), theirs.state_dict().items(), strict=True
        ):
            assert (name, t.dtype, t.device) == (other_name, other.dtype, other.device)


@per_case()
def test_moved_cast_and_emptied(cls, index):
    case = Case(cls, index, "class", torch.float32)
    case.ours.double()
    args, kwargs = case.changed(as_double)
    wanted = case.theirs.double()(*args, **kwargs)
    assert_same_outputs(case.ours(*args, **kwargs), wanted, 1e-12)
    empty = case.ours.eval().to("meta")
    args, kwargs = case.changed(lambda x: as_double(x).to("meta"))
    for y, other in zip(tupled(empty(*args, **kwargs)), tupled(wanted), strict=True):
        assert y.is_meta and y.shape == other.shape and y.dtype == other.dtype
    back = empty.to_empty(device="cpu")
    assert all(p.device.type == "cpu" for p in (*back.parameters(), *back.buffers()))


@per_mode
@pytest.mark.parametrize(
    "cls", [cls for cls in ENTRIES if "inplace" in inspect.signature(cls).parameters]
)
def test_in_place_is_out_of_place(cls, training):
    case = Case(cls, 0, "class", torch.float32, training)
    wanted = case.ours(*case.args, **case.kwargs)
    case.ours.inplace = True
    args, kwargs = case.changed(torch.clone)
    before = args[0]._version
    y = case.ours(*args, **kwargs)
    assert torch.equal(y, wanted) and torch.equal(args[0], wanted) and args[0]._version > before
    leaf = args[0].detach().requires_grad_()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        case.ours(leaf)


@pytest.mark.parametrize("cls", ENTRIES)
def test_training_and_evaluation_differ_where_the_table_says_so(cls):
    case = Case(cls, 0, "class", torch.float32, True)
    results = [case.ours.train(mode)(*case.args, **case.kwargs) for mode in (True, False)]
    assert torch.equal(*results) is not ENTRIES[cls].train_and_eval_differ


@per_route
@per_mode
@pytest.mark.parametrize("cls", [c for c, info in ENTRIES.items() if info.module_error_inputs_func])
def test_wrong_inputs(cls, training, route):
    info = ENTRIES[cls]
    for each in info.module_error_inputs_func(
        info, "cpu", torch.float32, requires_grad=False, training=training
    ):
        for laid in (torch.clone, channels_last_where_possible):
            ours, theirs = (
                refusal(make, each, training, laid) for make in (ROUTES[route](cls), cls)
            )
            assert ours == theirs
            if training:  # what the table's own tests run
                assert ours[0] is each.error_type and re.search(each.error_regex, ours[1])


def channels_last_where_possible(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def refusal(make, each, training, laid):
    """Type and text of the error at construction or call; None for none."""
    made_with = each.module_error_input.constructor_input
    called_with = each.module_error_input.forward_input
    try:
        module = make(*made_with.args, **made_with.kwargs).train(training)
    except Exception as error:
        assert each.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR
        return type(error), str(error)
    try:
        module(*map(laid, called_with.args), **called_with.kwargs)
    except Exception as error:
        return type(error), str(error)
    return None
