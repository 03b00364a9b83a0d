"""The model on paper: what each kernel must move and compute, beside what it does in the emulation.

python -m tests.cuda_emulation.paper [--write]   prints the table, or puts it into docs/cuda.md
"""

from __future__ import annotations

import pathlib
import sys
from dataclasses import dataclass

import torch

from benchmarks.gpu.problems import A100, H100, KERNELS, Kernel, Shape
from tests.cuda_emulation.library import Library
from tests.cuda_emulation.maps import image, shape_of, unset
from tests.cuda_emulation.test_optimizer import Steps

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "cuda.md"
BEGIN, END = "<!-- model on paper -->", "<!-- end of the model -->"
COUNTED = Shape(2, 64, 16, 16)  # the emulation's
TIMED = Shape()  # the columns' of the two GPUs
STEPS = {
    "SGD with momentum": ("sgd", {"lr": 0.1, "momentum": 0.9}),
    "Adam": ("adam", {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
}
MATH = {"float32": 0, "tf32": 1, "bfloat16": 2}


MOMENT_ROWS = 64


@dataclass(frozen=True)
class Counted:
    """What a kernel did, over what it must.

    Attributes:
        moved: bytes of the 32-byte sectors that its warps touched, over the least bytes.
        coalesced: share of these sectors' bytes that was asked for.
        conflicts: of shared memory's banks.
    """

    kernel: Kernel
    moved: float
    coalesced: float
    conflicts: int


def _moments() -> torch.Tensor:
    rows = COUNTED.elements // COUNTED.channels
    return torch.rand(2, -(-rows // MOMENT_ROWS), COUNTED.channels)


def _fields(kernel: Kernel) -> tuple[str, dict, int]:
    """Entry, its fields, and from which size on buffers are counted."""
    shape = (COUNTED.batch, COUNTED.channels, COUNTED.height, COUNTED.width)
    c, x, g = COUNTED.channels, image(shape, "nhwc"), image(shape, "nhwc")
    map_bytes = COUNTED.elements * 4
    vector = lambda: torch.rand(c) + 0.5  # noqa: E731
    name, base = kernel.name, {"shape": shape_of(x, "nhwc")}
    if name.startswith("batch norm"):
        base |= {"input": x, "weight": vector(), "bias": vector(), "relu": 1}
        base |= {"saved_mean": vector(), "saved_invstd": vector()}
        base |= {"training": "evaluation" not in name}
        if "backward" in name:
            base |= {"output_gradient": g, "input_gradient": unset(shape, "nhwc")}
            base |= {"weight_gradient": vector(), "bias_gradient": vector()}
            return "batch_norm_backward", base, map_bytes
        base |= {"running_mean": vector(), "running_variance": vector(), "momentum": 0.1}
        base |= {"epsilon": 1e-5, "output": unset(shape, "nhwc")}
        base |= {"residual": g} if "residual" in name else {}
        if "moments" in name:
            moments = _moments()
            base |= {"moments": moments, "moment_rows": MOMENT_ROWS}
            return "batch_norm_forward", base, moments.numel() * 4
        return "batch_norm_forward", base, map_bytes
    if name == "dropout":
        key = {"probability": 0.5, "seed": 1, "offset": 0}
        return "dropout", {**base, "input": x, "key": key, "output": g}, map_bytes
    if name.startswith("max-pool"):
        pooled = (*shape[:2], shape[2] // 2, shape[3] // 2)
        argmax = unset(pooled, "nhwc", torch.float32).nan_to_num(0).to(torch.uint8)
        small = image(pooled, "nhwc")
        if "forward" in name:
            base |= {"input": x, "output": small, "argmax": argmax}
            return "max_pool_forward", base, argmax.numel()
        base |= {"output_gradient": small, "argmax": argmax, "input_gradient": x}
        return "max_pool_backward", base, argmax.numel()
    groups = c if name.startswith("depthwise") else 1
    weight = image((c, c // groups, 3, 3), "nhwc")
    least = min(map_bytes, weight.numel() * 4)
    ones = {
        f"{k}_{axis}": 1 for k in ("stride", "padding", "dilation") for axis in ("height", "width")
    }
    strides = zip(("out_channel", "in_channel", "row", "column"), weight.stride(), strict=True)
    base = {
        "shape": {
            "input": shape_of(x, "nhwc"), "out_channels": c, "groups": groups, **ones,
            "kernel_height": 3, "kernel_width": 3, "math": MATH[kernel.arithmetic],
            **{f"weight_{k}": v for k, v in strides},
        }
    }  # fmt: skip
    if "weight gradient" in name:
        base |= {"input": x, "output_gradient": g, "weight_gradient": weight}
        return "conv_weight_gradient", base, least
    if "data" in name:
        base |= {"output_gradient": g, "weight": weight, "input_gradient": x}
        return "conv_data_gradient", base, least
    base |= {"input": x, "weight": weight, "output": g}
    if "moments" in name:
        base |= {"moments": _moments()}
        least = min(least, base["moments"].numel() * 4)
    return "conv_forward", base, least


def count(library: Library, kernel: Kernel) -> Counted:
    """Runs the kernel in the emulation."""
    if kernel.name.startswith(("SGD", "Adam")):
        entry, options = STEPS[kernel.name]
        size = COUNTED.elements
        steps = Steps(library, entry, [torch.randn(size)])
        steps.step([torch.randn(size)], **options)  # the first has no velocity to read
        with library.tracing(least_bytes=size) as counted:
            steps.step([torch.randn(size)], **options)
    else:
        entry, fields, least = _fields(kernel)
        with library.tracing(least_bytes=least) as counted:
            library.run(entry, **fields)
    touched = counted["sectors"] * 32
    return Counted(
        kernel,
        touched / kernel.bytes(COUNTED),
        counted["asked"] / touched,
        counted["bank_conflicts"],
    )


def counts(library: Library) -> list[Counted]:
    """Of every kernel of the table."""
    torch.manual_seed(0)
    return [count(library, kernel) for kernel in KERNELS]


def table(counted: list[Counted]) -> str:
    """All kernels, as Markdown."""
    lines = [
        "| kernel | least MB | GFLOP | A100 µs | H100 µs | moved ÷ least | coalesced | bank conflicts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for done in counted:
        kernel = done.kernel
        a100, h100 = (kernel.seconds(TIMED, gpu) * 1e6 for gpu in (A100, H100))
        lines.append(
            f"| {kernel.name} | {kernel.bytes(TIMED) / 1e6:.1f} | {kernel.flops(TIMED) / 1e9:.2f} "
            f"| {a100:.1f} | {h100:.1f} | {done.moved:.2f} | {done.coalesced:.0%} | {done.conflicts} |"
        )
    return "\n".join(lines)


def in_page() -> str:
    """The table that docs/cuda.md has now."""
    return PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()


def main() -> int:
    made = table(counts(Library("recorded")))
    if sys.argv[1:] == ["--write"]:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}")
    else:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
