"""A whole network of `models.ARCHITECTURES` as one layer of a `Sequential`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from pyconvopt.layers.base import Layer, Shape, show

STAND_IN = 64  # the size an image is taken to have where it is not known


class Architecture(Layer):
    """A known architecture by its name: Architecture('resnet18', {'num_classes': 10}).

    So it is assembled, trained and saved like any layer, takes arrays (N, H, W, C), and may have
    others before and behind it. `network` is the torch module, accelerated, whose `state_dict` has
    the names torchvision uses.

    Args: architecture (a name of `models.ARCHITECTURES`), arguments (none; its own: num_classes,
    small_images ...). in_channels follows from the input.
    Shapes: (N, H, W, C) to logits (N, num_classes); U-Net: (N, H, W, num_classes).

    Errors: ValueError for an unknown name or argument, or images too small for the network.

    >>> layer = Architecture('resnet_cifar', {'depth': 8})
    >>> layer.build((None, 32, 32, 3))
    >>> layer.output_shape, layer.count_params()
    ((None, 10), 78714)
    """

    network: nn.Module
    ranks = (4,)

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name, input_shape)
        self.architecture = architecture
        self.arguments = dict(arguments or {})
        if "in_channels" in self.arguments:
            raise ValueError("in_channels follows from the images; leave it out")
        self.operations: int | None = None
        with torch.device("meta"):  # refuses a wrong name now
            self.make(1)

    def make(self, channels: int) -> nn.Module:
        """The network for images of that many channels."""
        from pyconvopt.models.architectures import build

        return build(self.architecture, in_channels=channels, **self.arguments)

    @override
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        height, width, channels = input_shape[1:]
        if not channels:
            raise ValueError(f"{self.name} needs to know the number of channels")
        with torch.device("meta"):
            network = self.make(channels).eval()
            image = torch.empty(1, channels, height or STAND_IN, width or STAND_IN)
            count = Operations(network)
            try:
                with torch.no_grad():
                    shape = tuple(network(image).shape[1:])
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{self.architecture} cannot take images of shape {show(input_shape)}: {error}"
                ) from None
        self.operations = count.total if height and width else None
        if len(shape) == 1:
            return (None, *shape)
        sizes = (shape[1] if height else None, shape[2] if width else None)
        return (None, *sizes, shape[0])

    @override
    def make_weights(self, input_shape: Shape) -> None:
        from pyconvopt.accelerate import accelerate

        self.network = accelerate(self.make(int(input_shape[-1] or 0)))

    @override
    def call(self, x: Tensor) -> Tensor:
        return self.network(x)

    @override
    def flops(self) -> int | None:
        return self.operations

    @override
    def keras_weights(self) -> list[tuple[str, Tensor]]:
        """Weights and statistics, by their names in the network and in torch's layouts."""
        if not self.built:
            return []
        state = self.network.state_dict(keep_vars=True)
        return [(name, each) for name, each in state.items() if each.is_floating_point()]


class Operations:
    """Counts what the convolutions and linear layers of a network do in one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.total = 0
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.register_forward_hook(self.add)

    def add(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Two operations for each multiplication with a weight."""
        values = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        self.total += 2 * values.numel() * module.weight[0].numel()
