"""The layers that are measured alone: `layers.inc`, and what each of its lines means.

The table is read by the C++ kernel benchmarks too, so it is a file of macro calls. Nothing but the
standard library is imported here: a peer's process has only its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("layers.inc")
CONVOLUTION_PASSES = ("forward", "data_gradient", "weight_gradient")
STEP = "forward_backward"  # of the layers whose two passes belong together
UPDATE = "update"  # of an optimiser
FLOAT = 4  # bytes

# What the arguments of each macro of the table are called.
COLUMNS = {
    "CONVOLUTION": (
        *("channels", "height", "width", "out_channels", "kernel_height", "kernel_width"),
        *("stride", "padding_height", "padding_width", "groups"),
    ),
    "BATCH_NORM_RELU": ("channels", "height", "width"),
    "MAX_POOL": (
        *("channels", "height", "width", "kernel_height", "kernel_width"),
        *("stride", "padding_height", "padding_width"),
    ),
    "DROPOUT": ("channels", "height", "width"),
}
LINE = re.compile(r'^(\w+)\("([^"]+)", ([\d, ]+)\)$', re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """A layer of the table at one batch size, or an optimiser's step.

    kind: convolution, batch_norm_relu, max_pool, dropout, sgd, adam, or a bare copy.
    parameters: (how many tensors, elements of each) of a step.
    """

    kind: str
    networks: tuple[str, ...] = ()
    batch: int = 1
    channels: int = 1
    height: int = 1
    width: int = 1
    out_channels: int = 0
    kernel_height: int = 1
    kernel_width: int = 1
    stride: int = 1
    padding_height: int = 0
    padding_width: int = 0
    groups: int = 1
    parameters: tuple[tuple[int, int], ...] = ()

    @property
    def passes(self) -> tuple[str, ...]:
        """A first layer has no data gradient: nobody asks for that of the images."""
        if self.kind == "convolution":
            return CONVOLUTION_PASSES if self.channels > 4 else ("forward", "weight_gradient")
        return (UPDATE,) if self.parameters else (STEP,)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.height, self.width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        group = self.channels // self.groups
        return self.out_channels, group, self.kernel_height, self.kernel_width

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        height = (self.height + 2 * self.padding_height - self.kernel_height) // self.stride + 1
        width = (self.width + 2 * self.padding_width - self.kernel_width) // self.stride + 1
        return self.batch, self.out_channels or self.channels, height, width

    def flops(self) -> int:
        """Of one pass: a convolution's as the definition counts them, whatever the algorithm.

        So Winograd's may exceed what the machine can do. Of the others an operation an element
        and term of their formulas: they are bound by memory.
        """
        elements = math.prod(self.input_shape)
        if self.parameters:
            return {"sgd": 6, "adam": 14}[self.kind] * self.parameter_count()
        if self.kind == "convolution":
            return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])
        return {"batch_norm_relu": 15, "max_pool": 1, "dropout": 2, "copy": 0}[self.kind] * elements

    def bytes(self) -> int:
        """Every tensor that the pass has to read or write, once each."""
        x, y = math.prod(self.input_shape), math.prod(self.output_shape)
        if self.parameters:
            return {"sgd": 5, "adam": 7}[self.kind] * self.parameter_count() * FLOAT
        floats = {
            "convolution": x + y + math.prod(self.weight_shape),
            "batch_norm_relu": 2 * x + 4 * x,  # x, y; then dy, x, y, dx
            "max_pool": 2 * (x + y),
            "dropout": 4 * x,
            "copy": 2 * x,
        }
        return FLOAT * floats[self.kind]

    def parameter_count(self) -> int:
        return sum(count * size for count, size in self.parameters)

    def memory(self) -> int:
        """About what one peer holds: tensors and gradients, in its own layout and in a second."""
        x, y = math.prod(self.input_shape), math.prod(self.output_shape)
        return 2 * FLOAT * (2 * x + 2 * y + 4 * self.parameter_count())

    def group(self, pass_: str) -> str:
        """The line of the summary that the pass belongs to."""
        if self.kind == "max_pool":
            return f"max-pool {self.kernel_height}×{self.kernel_width}"
        if self.kind != "convolution":
            return {"batch_norm_relu": "batch norm + ReLU"}.get(self.kind, self.kind)
        if self.channels <= 4:
            return "first layers"
        if self.groups > 1:
            return "depthwise"
        if (self.kernel_height, self.kernel_width, self.stride) != (3, 3, 1):
            return "1×1, strided, 5×5, 7×7"
        if min(self.channels, self.out_channels) < 64:
            return "3×3 stride 1, C or K < 64"
        weight = pass_ == "weight_gradient"
        return (
            f"3×3 stride 1, C, K ≥ 64: {'weight gradient' if weight else 'forward, data gradient'}"
        )

    def __str__(self) -> str:
        """What tells it from the others: 64→128, 56×56, 3×3/2."""
        if self.parameters:
            return f"{self.kind}, {self.parameter_count():,} parameters"
        size = f"{self.height}×{self.width}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        if self.kind == "max_pool":
            window = f"{self.kernel_height}×{self.kernel_width}{stride}"
            padded = f" p{self.padding_height}" if self.padding_height else ""
            return f"{self.kind}, {self.channels}, {size}, {window}{padded}"
        if self.kind != "convolution":
            return f"{self.kind}, {self.channels}, {size}"
        groups = f" g{self.groups}" if self.groups > 1 else ""
        filter_ = f"{self.kernel_height}×{self.kernel_width}{stride}{groups}"
        same = (self.kernel_height // 2, self.kernel_width // 2)
        padding = (self.padding_height, self.padding_width)
        padded = "" if padding == same else f" p{'×'.join(map(str, dict.fromkeys(padding)))}"
        return f"{self.channels}→{self.out_channels}, {size}, {filter_}{padded}"

    def request(self) -> dict[str, Any]:
        """For the JSON of a worker or a report."""
        return asdict(self)

    @classmethod
    def of(cls, request: dict[str, Any]) -> Problem:
        """The inverse of `request`, after its way through JSON."""
        pairs = tuple((count, size) for count, size in request["parameters"])
        return cls(**request | {"networks": tuple(request["networks"]), "parameters": pairs})


# What the machine is measured by, see `ceilings`.
PRODUCT = Problem("convolution", ("machine",), 2, 256, 56, 56, 256)
COPY = Problem("copy", height=8192, width=8192)


def read(path: Path = TABLE) -> list[Problem]:
    """Every line of the table at batch 1; the optimisers' steps come last.

    Errors: ValueError for a macro that is not known.
    """
    found: list[Problem] = []
    parameters: dict[str, list[tuple[int, int]]] = {}
    for macro, names, numbers in LINE.findall(path.read_text(encoding="utf-8")):
        values = [int(number) for number in numbers.split(",")]
        if macro == "PARAMETERS":
            count, size = values
            parameters.setdefault(names, []).append((count, size))
        elif macro in COLUMNS:
            columns = dict(zip(COLUMNS[macro], values, strict=True))
            found.append(Problem(macro.lower(), tuple(names.split()), **columns))
        else:
            raise ValueError(
                f"{path}: unknown kind of layer {macro!r}; known: {', '.join(COLUMNS)}"
            )
    for kind in ("sgd", "adam"):
        found += [Problem(kind, (net,), parameters=tuple(p)) for net, p in parameters.items()]
    return found


def networks(problems: Sequence[Problem]) -> list[str]:
    return list(dict.fromkeys(name for problem in problems for name in problem.networks))


def select(
    wanted: Sequence[str], kinds: Sequence[str], batches: Sequence[int], problems: Sequence[Problem]
) -> list[Problem]:
    """The layers of these networks and kinds (none named: all) at these batches.

    An optimiser's step does not depend on the batch and comes once.

    Errors: ValueError for a network or a kind that no line has.
    """
    known = {"network": networks(problems), "kind": list(dict.fromkeys(p.kind for p in problems))}
    for what, names in (("network", wanted), ("kind", kinds)):
        for name in names:
            if name not in known[what]:
                raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known[what])}")
    return [
        replace(problem, batch=batch)
        for number, batch in enumerate(batches)
        for problem in problems
        if (not wanted or set(wanted) & set(problem.networks))
        and (not kinds or problem.kind in kinds)
        and not (problem.parameters and number)
    ]
