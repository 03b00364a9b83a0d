"""What torch users do with a model beside calling it: each thing on the accelerated one as on torch's."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import pyconvopt as pco

from ..nn.helpers import assert_same, same_layout
from .networks import BasicBlock, as_written, assert_same_network_step, image, pair_of

BOUND = 1e-3


def assert_same_everywhere(fast, theirs, x):
    """A training step, and evaluation with and without gradients."""
    assert_same_network_step(fast, theirs, x, BOUND)
    fast.eval(), theirs.eval()
    assert_same_network_step(fast, theirs, x, BOUND)
    with torch.no_grad():
        y, wanted = fast(x), theirs(x)
    assert_same(y, wanted, BOUND)
    assert same_layout(y, wanted)
    fast.train(), theirs.train()


# --- how models are written ------------------------------------------------------------------------


class Repeated(nn.Module):
    """One convolution, batch norm and activation, three times over."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = self.body(x)
        return x


class Tied(nn.Module):
    """Two layers with one weight: an encoder, and a decoder that is its transpose."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.second.weight = self.first.weight
        self.stem = nn.Conv2d(3, 16, 1)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(self.stem(x)))))
        return F.conv_transpose2d(y, self.first.weight, padding=1)


class UsedTwice(nn.Module):
    """One convolution's own result is needed beside what is made of it, another's is written over."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)

    def forward(self, x):
        y = self.conv(x)
        z = self.other(x)
        z.mul_(2)
        return F.relu(self.bn(y)) + y + F.relu(z, inplace=True)


@pytest.mark.parametrize("make", [Repeated, Tied, UsedTwice])
def test_ways_to_write_a_model(make):
    theirs = make()
    fast = pco.accelerate(copy.deepcopy(theirs))
    for _ in range(2):
        assert_same_everywhere(fast, theirs, image())
    assert not as_written(fast)
    assert len(list(fast.parameters())) == len(list(theirs.parameters()))


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.LazyConv2d(16, 3), nn.ReLU()), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip


@pytest.mark.parametrize("copied", [False, True])
def test_lazy_layers(copied):
    x, theirs, fast = image(), lazy(), pco.accelerate(lazy())
    fast = pickle.loads(pickle.dumps(fast)) if copied else fast
    for model in (fast, theirs):
        torch.manual_seed(1)
        model(x)
    assert repr(fast) == repr(theirs)
    assert type(fast[0]) is pco.nn.Conv2d and type(fast[6]) is pco.nn.Linear
    assert [type(m) for m in pco.restore(fast).modules()] == [type(m) for m in theirs.modules()]
    assert_same_everywhere(fast, theirs, x)
    assert fast._pyconvopt_plans.current is not None, "joined from the second call on"


def test_lazy_layers_of_a_model_that_was_accelerated_and_is_called_itself():
    model, x = lazy(), image()
    fast = pco.accelerate(model)
    model(x)
    assert_same_everywhere(fast, copy.deepcopy(model), x)


def test_lazy_layers_get_their_weights_from_a_file():
    x, theirs = image(), lazy()
    theirs(x)
    fast = pco.accelerate(lazy())
    fast.load_state_dict(theirs.state_dict())
    assert_same_everywhere(fast, theirs, x)


def test_lazy_layers_have_nothing_to_freeze():
    with pytest.raises(ValueError, match="has lazy layers without weights to freeze: call it once"):
        pco.accelerate(lazy(), frozen=True)


REPARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "hook weight_norm": nn.utils.weight_norm,
    "hook spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "pruned channels": lambda m: prune.ln_structured(m, "weight", 0.25, n=2, dim=0),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_reparametrized_and_pruned_weights(name, after):
    """Put on before the model is accelerated, or after it has run."""
    torch.manual_seed(1)  # with no value so near to 0 that its ReLU hangs on the last bit
    parts = (BasicBlock(16, 16), BasicBlock(16, 16))
    parts[1].load_state_dict(parts[0].state_dict())
    fast, theirs = (nn.Sequential(part) for part in parts)
    x = image(4, 16, 12, 12)
    if after:
        fast = pco.accelerate(fast)
        fast(x), theirs(x)
    for model in (fast, theirs):
        for conv in (model[0].conv1, model[0].conv2):
            torch.manual_seed(2)
            REPARAMETRIZED[name](conv)
    if not after:
        fast = pco.accelerate(fast)
    assert_same_everywhere(fast, theirs, x)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (fast, theirs)]
    for optimizer in optimizers:
        optimizer.step()
    assert_same_everywhere(fast, theirs, x)
    assert list(fast.state_dict()) == list(theirs.state_dict())
    plain = pco.restore(fast).eval()
    assert_same(plain(x), theirs.eval()(x), BOUND)


def test_pruning_made_permanent_and_parametrization_removed():
    fast, x = pco.accelerate(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())), image()
    prune.l1_unstructured(fast[0], "weight", 0.5)
    pruned = fast(x)
    prune.remove(fast[0], "weight")
    assert type(fast[0]) is pco.nn.Conv2d
    assert_same(fast(x), pruned, 1e-5)
    parametrizations.weight_norm(fast[0])
    nn.utils.parametrize.remove_parametrizations(fast[0], "weight")
    assert type(fast[0]) is pco.nn.Conv2d
    assert_same(fast(x), pruned, 1e-5)


# --- gradients -------------------------------------------------------------------------------------


def dropping():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.Dropout(0.3),
    )  # fmt: skip


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_draws_the_same_masks_again(reentrant):
    fast, x = pco.accelerate(dropping()), image().requires_grad_()
    found = []
    for run in (fast, lambda x: checkpoint(fast, x, use_reentrant=reentrant)):
        fast.zero_grad()
        x.grad = None
        torch.manual_seed(5)
        y = run(x)
        y.square().sum().backward()
        found.append([y.detach(), x.grad, *(p.grad.clone() for p in fast.parameters())])
        found[-1].append(torch.rand(3))  # the generator goes on from the same state
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_backward_twice_and_a_freed_graph():
    theirs, x = pair_of("vgg")
    fast = pco.accelerate(copy.deepcopy(theirs))
    for model in (fast, theirs):
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
    for p, q in zip(fast.parameters(), theirs.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() <= BOUND * max(q.grad.abs().max(), 1e-2)


@pytest.mark.parametrize(
    "context", [torch.autograd.graph.save_on_cpu, torch.autograd.detect_anomaly]
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_autograd_contexts(context):
    theirs, x = pair_of("resnet")
    fast = pco.accelerate(copy.deepcopy(theirs))
    with context():
        assert_same_network_step(fast, theirs, x, BOUND)


def weights(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def test_gradients_of_each_sample():
    theirs, x = pair_of("article")
    fast = pco.accelerate(copy.deepcopy(theirs))

    def gradients(model):
        def loss(state, one):
            return torch.func.functional_call(model, state, (one[None],)).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(weights(model), x)

    ours, wanted = gradients(fast), gradients(theirs)
    for name in wanted:
        assert_same(ours[name], wanted[name], BOUND)


def test_ensembles():
    models = [pco.accelerate(pair_of("article")[0]) for _ in range(3)]
    x = torch.randn(2, 1, 28, 28)
    state = torch.func.stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    together = torch.func.vmap(
        lambda p, b: torch.func.functional_call(skeleton, (p, b), (x,)), randomness="error"
    )(*state)
    for one, model in zip(together, models, strict=True):
        assert_same(one, model(x), BOUND)


def test_forward_mode():
    theirs, x = pair_of("resnet")
    fast, tangent = pco.accelerate(copy.deepcopy(theirs)), torch.randn_like(x)
    fast.eval(), theirs.eval()
    for ours, wanted in zip(
        torch.func.jvp(fast, (x,), (tangent,)),
        torch.func.jvp(theirs, (x,), (tangent,)),
        strict=True,
    ):
        assert_same(ours, wanted, BOUND)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        ours, wanted = (torch.autograd.forward_ad.unpack_dual(m(dual)) for m in (fast, theirs))
    assert_same(ours.tangent, wanted.tangent, BOUND)


def test_hessians():
    theirs = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8, 1))
    fast, x = pco.accelerate(copy.deepcopy(theirs)), torch.randn(1, 1, 4, 4)
    wanted = torch.func.hessian(lambda x: theirs(x).square().sum())(x)
    assert_same(torch.func.hessian(lambda x: fast(x).square().sum())(x), wanted, BOUND)
    second = torch.autograd.functional.hessian(lambda x: fast(x).square().sum(), x)
    assert_same(second, wanted, BOUND)


# --- wrapped, averaged, exported -------------------------------------------------------------------


def test_data_parallel_without_devices_passes_through():
    theirs, x = pair_of("resnet")
    fast = pco.accelerate(copy.deepcopy(theirs))
    assert_same_network_step(nn.DataParallel(fast), nn.DataParallel(theirs), x, BOUND)
    with pytest.raises(
        ValueError, match="wrapped in DataParallel: accelerate or restore the model"
    ):
        pco.accelerate(nn.DataParallel(theirs))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_replica_has_plans_of_its_own(frozen):
    """Those of the original hold its weights; a replica's are copies on another device."""
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()).eval(), image()
    fast = pco.accelerate(model, frozen=frozen)
    with torch.no_grad():
        y = fast(x)
        replica, conv = (module._replicate_for_data_parallel() for module in (fast, fast[0]))
        replica._modules["0"] = conv
        conv.weight, conv.bias = 2 * fast[0].weight, 2 * fast[0].bias
        assert_same(replica(x), 2 * y, BOUND)
        assert_same(fast(x), y, BOUND)


@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_make_fx(mode):
    """Sizes that are symbols are torch's."""
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.GELU()
    model = nn.Sequential(*layers, nn.ConvTranspose2d(16, 4, 2), nn.AvgPool2d(2)).eval()
    fast, x = pco.accelerate(model), image()
    make = make_fx(fast, tracing_mode=mode, _allow_non_fake_inputs=True)
    with torch.no_grad():
        assert_same(make(x)(x), model(x), BOUND)


def test_averaged_models():
    theirs, x = pair_of("resnet")
    models = [pco.accelerate(copy.deepcopy(theirs)), theirs]
    averages = [torch.optim.swa_utils.AveragedModel(model) for model in models]
    for model, average in zip(models, averages, strict=True):
        for scale in (0.5, 2.0):
            with torch.no_grad():
                model.conv1.weight.mul_(scale)
            average.update_parameters(model)
        torch.optim.swa_utils.update_bn([x], average)
    assert type(averages[0].module.conv1) is pco.nn.Conv2d
    assert_same_network_step(*averages, x, BOUND)


def test_partly_compiled():
    theirs, x = pair_of("resnet")
    fast = pco.accelerate(copy.deepcopy(theirs))
    fast.layer1 = torch.compile(fast.layer1, backend="aot_eager")
    assert_same_network_step(fast, theirs, x, BOUND)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript():
    """A trace holds torch's own operations; scripting takes the restored model."""
    theirs, x = pair_of("resnet")
    theirs.eval()
    fast = pco.accelerate(copy.deepcopy(theirs))
    fast(x)
    traced = torch.jit.trace(fast, x)
    assert "pyconvopt::" not in str(traced.inlined_graph)
    scripted = torch.jit.script(pco.restore(fast))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for each in (traced, scripted, torch.jit.load(file)):
        assert_same(each(x), theirs(x), BOUND)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("restored", [True, False])
def test_onnx(restored, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from onnx.reference import ReferenceEvaluator

    theirs, x = pair_of("resnet")
    theirs.eval()
    fast = pco.accelerate(copy.deepcopy(theirs))
    fast(x)
    path = tmp_path / "model.onnx"
    exported = pco.restore(fast) if restored else fast
    torch.onnx.export(exported, (x,), path, dynamo=True, verbose=False)
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert {node.domain for node in graph.graph.node} == {""}, "no operators of this library"
    (y,) = ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()})
    assert_same(torch.from_numpy(y), theirs(x), BOUND)
