"""`torch.jit.script` of modules here is that of torch's, around the same parameters."""

from __future__ import annotations

import copy

import pytest
import torch

import pyconvopt as pco

MODULES = [
    ("Conv2d", (16, 8, 3), (2, 16, 8, 8)),
    ("Conv1d", (16, 8, 3), (2, 16, 8)),
    ("ConvTranspose2d", (16, 8, 3), (2, 16, 8, 8)),
    ("BatchNorm2d", (16,), (2, 16, 8, 8)),
    ("MaxPool2d", (2,), (2, 16, 8, 8)),
    ("AvgPool2d", (2,), (2, 16, 8, 8)),
    ("AdaptiveAvgPool2d", (1,), (2, 16, 8, 8)),
    ("Linear", (16, 4), (2, 16)),
    *((name, (), (2, 16)) for name in ("Dropout", "ReLU", "Tanh", "ELU", "SELU", "GELU", "SiLU")),
    *((name, (), (2, 16)) for name in ("Mish", "Softplus", "Sigmoid", "Hardswish", "Hardtanh")),
    ("Dropout2d", (), (2, 16, 8, 8)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), MODULES, ids=lambda each: str(each))
def test_scripted_modules(name, arguments, shape, tmp_path):
    module, x = getattr(pco.nn, name)(*arguments), torch.randn(shape)
    module(x)
    wanted = copy.deepcopy(module).eval()(x)
    scripted = torch.jit.script(module)
    assert list(scripted.state_dict()) == list(module.state_dict())
    assert all(p is q for p, q in zip(scripted.parameters(), module.parameters(), strict=True))
    torch.jit.save(scripted.eval(), tmp_path / "module.pt")
    again = torch.jit.load(tmp_path / "module.pt")
    torch.testing.assert_close(again(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_scripted_model_trains_the_same_parameters():
    parts = pco.nn.Conv2d(3, 8, 3), pco.nn.BatchNorm2d(8), pco.nn.ReLU(), pco.nn.MaxPool2d(2)
    model = torch.nn.Sequential(*parts)
    scripted = torch.jit.script(model)
    scripted(torch.randn(2, 3, 8, 8)).sum().backward()
    assert parts[0].weight.grad is not None
    assert parts[1].num_batches_tracked == 1
    assert model.eval() and not parts[1].training


@pytest.mark.parametrize("frozen", [False, True])
def test_an_accelerated_model(frozen):
    parts = torch.nn.Conv2d(16, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
    model = torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(16 * 36, 3)).eval()
    fast, x = pco.accelerate(model, frozen=frozen), torch.randn(2, 16, 8, 8)
    fast(x)
    for each in (torch.jit.script(fast), fast):
        torch.testing.assert_close(each(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_subclass_is_not_taken_for_torchs_module():
    class Doubled(pco.nn.ReLU):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * torch.relu(input)

    x = torch.tensor([1.0])
    assert torch.jit.script(Doubled())(x) == 2
    with pytest.raises(RuntimeError):
        torch.jit.script(pco.nn.WeightStandardizedConv2d(3, 4, 3))


def test_the_loss():
    logits, target = torch.randn(3, 4), torch.tensor([0, 3, 1])
    loss = pco.nn.CrossEntropyLoss(label_smoothing=0.1)
    torch.testing.assert_close(torch.jit.script(loss)(logits, target), loss(logits, target))
