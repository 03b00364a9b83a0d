"""Architectures: torchvision's names, shapes and outputs; small images; training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from pyconvopt import models
from tests.models.torchvision_peer import torchvision_models

OWN = ("resnet_cifar", "wide_resnet", "unet")
PEERS = [name for name in models.ARCHITECTURES if name not in OWN]
PEER_OPTIONS = {"inception_v3": {"aux_logits": False, "init_weights": False}}

# Of each of torchvision's state_dicts: the number of parameters, and a hash of names and shapes.
TABLE = {
    name: (int(count), digest)
    for name, count, digest in (
        line.split()
        for line in Path(__file__).with_name("torchvision.txt").read_text().splitlines()
    )
}


def fingerprint(model: torch.nn.Module) -> tuple[int, str]:
    """A line of the table."""
    lines = [f"{name} {tuple(each.shape)}" for name, each in model.state_dict().items()]
    count = sum(each.numel() for each in model.parameters())
    return count, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


class TestTorchvision:
    @pytest.mark.parametrize("name", PEERS)
    def test_names_and_shapes(self, name):
        with torch.device("meta"):
            assert fingerprint(models.build(name)) == TABLE[name]

    def test_the_table_is_whole(self):
        assert sorted(TABLE) == sorted(PEERS)

    @pytest.mark.parametrize("name", PEERS)
    def test_outputs(self, name):
        options = PEER_OPTIONS.get(name, {})
        peer = getattr(torchvision_models(), name)(num_classes=10, **options).eval()
        assert fingerprint(getattr(torchvision_models(), name)(**options)) == TABLE[name]
        with torch.device("meta"):
            model = models.build(name, num_classes=10)
        model.load_state_dict(peer.state_dict(), assign=True)
        x = torch.randn(2, 3, 96, 96)
        with torch.no_grad():
            wanted, got = peer(x), model.eval()(x)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


class TestSmallImages:
    @pytest.mark.parametrize("name", [name for name in models.ARCHITECTURES if name != "unet"])
    def test_logits_and_gradients(self, name):
        small = {} if name in OWN else {"small_images": True}
        deep = {"wide_resnet": {"depth": 10, "width": 2}}.get(name, {})
        model = models.build(name, num_classes=7, in_channels=1, **small, **deep)
        logits = model(torch.randn(2, 1, 28, 28))
        assert logits.shape == (2, 7)
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 6])).backward()
        for key, weight in model.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all(), key

    @pytest.mark.parametrize(
        ("name", "layer", "size"),
        [
            ("resnet18", "layer1", 32),
            ("densenet121", "features.denseblock1", 32),
            ("mobilenet_v2", "features.2", 32),
            ("mobilenet_v3_large", "features.2", 32),
            ("efficientnet_b0", "features.2", 32),
            ("regnet_y_400mf", "trunk_output.block1", 32),
            ("convnext_tiny", "features.1", 32),
            ("vgg11_bn", "features.4", 32),
            ("squeezenet1_1", "features.3", 32),
        ],
    )
    def test_the_first_stage_sees_every_pixel(self, name, layer, size):
        model = models.build(name, small_images=True).eval()
        seen = []
        model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: seen.append(output.shape[-1])
        )
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
        assert seen == [size]

    def test_small_and_large_share_their_later_weights(self):
        with torch.device("meta"):
            large = models.resnet18().state_dict()
            small = models.resnet18(small_images=True).state_dict()
        assert list(large) == list(small)
        unlike = [name for name in large if large[name].shape != small[name].shape]
        assert unlike == ["conv1.weight"]


class TestOwn:
    @pytest.mark.parametrize(("depth", "count"), [(20, 272474), (56, 855770)])
    def test_resnet_cifar(self, depth, count):
        # The paper's 0.27 and 0.85 million, and the shortcuts' 1×1 convolutions.
        assert sum(each.numel() for each in models.resnet_cifar(depth).parameters()) == count

    def test_wide_resnet(self):
        # WRN-28-10 of the paper: 36.5 million.
        with torch.device("meta"):
            model = models.wide_resnet(28, 10)
        assert sum(each.numel() for each in model.parameters()) == 36_479_194

    def test_dropout_of_a_wide_resnet(self):
        model = models.wide_resnet(10, 1, dropout=0.5)
        x = torch.randn(2, 3, 16, 16)
        assert not torch.equal(model(x), model(x))
        assert torch.equal(model.eval()(x), model(x))

    def test_unet_keeps_sizes_and_sees_far(self):
        model = models.unet(3, in_channels=1, width=4, depth=2).eval()
        x = torch.randn(1, 1, 21, 30, requires_grad=True)
        y = model(x)
        assert y.shape == (1, 3, 21, 30)
        y[0, 0, 10, 15].backward()
        reached = x.grad[0, 0].abs().sum(0).nonzero()
        assert reached.max() - reached.min() > 16  # two levels down a 3×3 window spans 12 pixels

    def test_refusals(self):
        for call, message in (
            (lambda: models.resnet_cifar(21), r"resnet_cifar has a depth of 6·n \+ 2, .* got 21"),
            (lambda: models.wide_resnet(4), r"wide_resnet has a depth of 6·n \+ 4"),
            (lambda: models.unet(depth=0), "width and depth must be 1 or more"),
            (lambda: models.build("resnet81"), "did you mean 'resnet18'"),
            (lambda: models.build("resnet18", classes=3), "did you mean 'num_classes'"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


class TestDeepThings:
    def test_dropped_paths_grow_with_depth(self):
        model = models.efficientnet_b0(stochastic_depth=0.4)
        rates = [module.p for module in model.modules() if type(module).__name__ == "DropPath"]
        assert len(rates) == 16 and rates == sorted(rates) and rates[0] == 0 and rates[-1] < 0.4

    def test_modules_are_this_librarys(self):
        for name in models.ARCHITECTURES:
            with torch.device("meta"):
                model = models.build(name)
            for module in model.modules():
                if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
                    squeezes = type(module) is torch.nn.Conv2d and module.kernel_size == (1, 1)
                    assert type(module).__module__.startswith("pyconvopt.") or squeezes
