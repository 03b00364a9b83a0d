"""Which operators CUDA tensors reach: on tensors without memory, so that no GPU is needed."""

from __future__ import annotations

import ctypes
import pathlib
import shutil
import subprocess

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import pyconvopt as pco
import pyconvopt.draws
from pyconvopt import cuda
from pyconvopt import functional as F
from pyconvopt.accelerate.plan import Plans
from pyconvopt.plans import conv_plan

TORCH = pathlib.Path(torch.__file__).parent
GUARD = pathlib.Path(__file__).with_name("device_guard.cpp")
pytestmark = pytest.mark.skipif(
    torch.version.cuda is not None, reason="test_gpu.py is for this torch"
)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """Torch built for CPUs refuses to record gradients on a device it has no guard for."""
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("guard") / "guard.so"
    command = [
        "g++",
        "-std=c++20",
        "-fPIC",
        "-shared",
        "-isystem",
        str(TORCH / "include"),
        str(GUARD),
    ]
    command += ["-o", str(library), f"-L{TORCH / 'lib'}", "-lc10"]
    subprocess.run(command, check=True, capture_output=True)
    ctypes.CDLL(str(library))


class Calls(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function).removesuffix(".default"))
        return function(*args, **(kwargs or {}))

    @property
    def own(self):
        """This library's, without the namespace."""
        return [n.removeprefix("pyconvopt.") for n in self.names if n.startswith("pyconvopt.")]


@pytest.fixture
def gpu(guard, monkeypatch):
    """A GPU whose plug-in runs, as far as Python can tell."""
    monkeypatch.setattr(cuda, "_ready", {0})
    monkeypatch.setattr(pyconvopt.draws, "draw_seed", lambda: 1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def tensor(*shape, dtype=torch.float32, last=False, gradient=False):
    x = torch.empty(shape, dtype=dtype, device="cuda")
    x = x.to(memory_format=torch.channels_last) if last else x
    return x.requires_grad_(gradient)


def gradients(y):
    """What the node that made `y` passes on; the engine would ask for a real device."""
    with torch.no_grad():
        found = getattr(y.grad_fn, "apply", y.grad_fn)(torch.empty_like(y))
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_batch_norm(gpu, dtype, last):
    x = tensor(2, 8, 6, 6, dtype=dtype, last=last, gradient=True)
    residual = tensor(2, 8, 6, 6, dtype=dtype, last=not last, gradient=True)
    weight, mean, var = tensor(8, gradient=True), tensor(8), tensor(8)
    with Calls() as calls:
        y = F.batch_norm(
            x, mean, var, weight, weight, True, activation="relu", residual=residual, dropout=0.1
        )
        dx, dweight, dbias, dresidual, *_ = gradients(y)
    assert calls.own == ["batch_norm_forward", "batch_norm_backward"]
    assert y.stride() == x.stride() == dx.stride() and y.dtype == dx.dtype == dtype
    assert dresidual.shape == residual.shape
    assert dweight.dtype == dbias.dtype == torch.float32


def test_batch_norm_with_pool_is_two_operators(gpu):
    x = tensor(2, 8, 6, 6, gradient=True)
    with Calls() as calls:
        y = F.batch_norm(x, None, None, training=True, activation="relu", pool=True)
        (dx,) = gradients(y)
    assert calls.own == ["batch_norm_forward", "max_pool2x2", "max_pool2x2_backward"]
    assert y.is_contiguous() and dx.is_contiguous() and dx.shape == x.shape


def test_parameters_in_half_precision_are_torch_s(gpu):
    x, weight = tensor(2, 8, 6, 6, dtype=torch.float16), tensor(8, dtype=torch.float16)
    with Calls() as calls:
        F.batch_norm(x, None, None, weight, weight, True)
    assert calls.own == []


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_dropout_and_pool(gpu, last):
    x = tensor(2, 8, 6, 6, dtype=torch.bfloat16, last=last, gradient=True)
    own = {}
    for function in (F.dropout, F.dropout2d, lambda x: F.max_pool2d(x, 2)):
        with Calls() as calls:
            y = function(x)
            dx = gradients(y)[0]
        own[calls.own[0]] = calls.own[1]
        assert dx.stride() == x.stride() and dx.dtype == x.dtype
    assert own == {
        "dropout": "dropout",
        "dropout_channels": "dropout_channels",
        "max_pool2x2": "max_pool2x2_backward",
    }


def test_masks_are_torch_s_while_a_graph_is_captured(gpu, monkeypatch):
    monkeypatch.setattr(cuda, "capturing", lambda: True)
    x = tensor(2, 8, 6, 6)
    with Calls() as calls:
        F.dropout(x)
        F.batch_norm(x, None, None, training=True, activation="relu", dropout=0.1)
    assert calls.own == ["batch_norm_forward"]


PASSES = ["conv2d", "conv2d_data_gradient", "conv2d_weight_gradient"]


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("groups", "setting", "own"),
    [(8, "cudnn", PASSES), (1, "cudnn", []), (1, "native", PASSES), (2, "native", PASSES)],
)
def test_convolution(gpu, last, groups, setting, own):
    x = tensor(2, 8, 6, 6, last=last, gradient=True)
    weight = tensor(8, 8 // groups, 3, 3, gradient=True)
    bias = tensor(8, gradient=True)
    with pco.settings(cuda_conv=setting), Calls() as calls:
        y = F.conv2d(x, weight, bias, padding=1, groups=groups, activation="relu")
        found = gradients(y)
    assert [name for name in calls.own if name.startswith("conv2d")] == own
    if own:
        assert y.stride() == x.stride()
        dx, dweight, dbias, *_ = found
        assert "relu_backward" in calls.own and dx.stride() == x.stride()
        assert dweight.shape == weight.shape and dbias.shape == bias.shape


def test_autocast_leaves_convolution_to_torch_and_takes_its_half_maps(gpu):
    conv = torch.nn.Conv2d(8, 8, 3, groups=8, device="cuda")
    model = pco.accelerate(torch.nn.Sequential(conv, torch.nn.BatchNorm2d(8, device="cuda")))
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with Calls() as calls:
            y = model(tensor(2, 8, 6, 6))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert calls.own == ["batch_norm_forward"] and y.dtype == torch.bfloat16


def test_accelerate_fuses_a_residual_block(gpu):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(8, 8, 3, padding=1, device="cuda")
            self.bn1 = torch.nn.BatchNorm2d(8, device="cuda")
            self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, device="cuda")
            self.bn2 = torch.nn.BatchNorm2d(8, device="cuda")

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + x)

    model = pco.accelerate(Block())
    with (
        Calls() as calls
    ):  # a tensor without memory is no plain tensor: its plan has to be asked for
        y = Plans().find(model, 1).run(model, tensor(2, 8, 6, 6))
    assert calls.own == ["batch_norm_forward"] * 2
    assert not [name for name in calls.names if "relu" in name or name == "aten.add.Tensor"]
    assert y.is_contiguous()


def test_channel_sums_of_the_gradient_are_torch_s():
    g, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).relu()
    wanted = torch.ops.pyconvopt.relu_backward(
        *(t.to(memory_format=torch.channels_last) for t in (g, y)), True
    )
    for ours, theirs in zip(cuda._relu_backward(g, y, True), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("optimizer", "operator"),
    [("SGD", "sgd_step_"), ("Adam", "adam_step_"), ("AdamW", "adam_step_")],
)
def test_optimizers(gpu, optimizer, operator):
    p = torch.nn.Parameter(tensor(4, 5))
    p.grad = tensor(4, 5)
    steps = getattr(pco.optimizers, optimizer)([p], lr=0.1)
    with Calls() as calls:
        steps.step()
    assert calls.own == [operator]


def test_parameters_on_two_devices_are_not_one_call(gpu):
    parameters = [torch.nn.Parameter(torch.empty(4, device=d)) for d in ("cuda", "cpu")]
    for p in parameters:
        p.grad = torch.empty_like(p)
    with Calls() as calls:
        pco.optimizers.SGD(parameters, lr=0.1).step()
    assert calls.own == ["sgd_step_"]
    assert any("add_" in name for name in calls.names)


# --- without a plug-in ----------------------------------------------------------------------------


@pytest.fixture
def no_plugin(monkeypatch):
    monkeypatch.setattr(cuda, "_ready", set())
    monkeypatch.setattr(cuda._C, "cuda_problem", lambda device: f"no plug-in for device {device}")
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_missing_plugin_is_an_error(no_plugin):
    with pytest.raises(RuntimeError, match="no plug-in for device 0"):
        F.batch_norm(tensor(2, 8, 6, 6), None, None, training=True)
    with pytest.raises(RuntimeError, match="no plug-in for device 0"):
        F.conv2d(tensor(2, 8, 6, 6), tensor(8, 1, 3, 3), groups=8)


def test_dense_convolution_asks_for_no_plugin(no_plugin):
    assert F.conv2d(tensor(2, 8, 6, 6), tensor(4, 8, 3, 3)).shape == (2, 4, 4, 4)


def test_torch_takes_over_where_it_may(no_plugin):
    with pco.settings(cuda_fallback=True), Calls() as calls:
        F.batch_norm(tensor(2, 8, 6, 6), None, None, training=True, activation="relu")
        F.conv2d(tensor(2, 8, 6, 6), tensor(8, 1, 3, 3), groups=8)
        F.dropout(tensor(2, 8, 6, 6))
    assert calls.own == []


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ({"cuda_conv": "own"}, ValueError, "must be 'cudnn' or 'native', got 'own'"),
        ({"cuda_math": "half"}, ValueError, "must be one of bfloat16, float32, tf32, got 'half'"),
        ({"cuda_fallback": 1}, TypeError, "must be a bool, got 1"),
    ],
)
def test_settings_are_checked(values, error, told):
    with pytest.raises(error, match=told):
        pco.settings(**values)


def test_plans_say_why():
    plan = conv_plan((2, 8, 6, 6), (8, 8, 3, 3), (1, 1), (1, 1), (1, 1), 1, True)
    assert not plan.native and "cuDNN" in plan.reasons[0]
    large = conv_plan((2**15, 8, 2**8, 2**8), (8, 1, 3, 3), (1, 1), (1, 1), (1, 1), 8, True)
    assert not large.native and "larger" in large.reasons[0]
