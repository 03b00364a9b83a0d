"""The peers: one table, one short file a library.

A peer's file imports its library at the top (the process is its own) and offers, for each kind
of work it can do, `make_<work>(model, batch, threads, **options) -> Workload`: `make_train_step`,
`make_fit`, `make_inference`; and for the layers `make_layer(problem, threads, pass_=…, **options)`.
`make_fit` and `make_inference` get `data`, the path of the images or of the model's ONNX file.
A missing package shows as the ImportError of that import; what the peer cannot build is a
`NotImplementedError` with the reason. Either way the peer is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Workload:
    """What a peer's process repeats.

    run: one unit of work, done when it returns (a training step, an epoch).
    check: what shows whether peers do the same work: the mean loss of the first steps, the test
        accuracy, or a layer's RMS and some elements of its results (`samples`); see
        `benchmark.Benchmark` for when it is asked.
    parameters: how many numbers the model trains; 0 where the peer cannot tell.
    version: the library and its version, and the instruction set it runs on where it says so.
    """

    run: Callable[[], Any]
    check: Callable[[], Any]
    parameters: int
    version: str


@dataclass(frozen=True)
class Peer:
    """A line of the table.

    name: what `--peers` takes; up to the first dot it names the family, which shares a Python
        interpreter (`--python family=path`) and can be chosen as a whole.
    file: the module of this package. options: what its `make_…` gets. environment: variables
        of its process. ours: this project's. tuned: needs a setting outside the program, which
        few users make; the report also names the fastest peer without it. works: what it is
        measured in unless `--peers` says otherwise.
    """

    name: str
    file: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ours: bool = False
    tuned: bool = False
    works: tuple[str, ...] = ("train_step", "inference")

    @property
    def family(self) -> str:
        return self.name.split(".")[0]

    def module(self) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.file}")


# glibc gives freed blocks beyond 32 MiB back to the system and faults them in anew each step.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
KERAS = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

ALL = ("train_step", "layer", "inference")

TABLE: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("pyconvopt", "pyconvopt_", {"manner": "layers"}, ours=True, works=(*ALL, "fit")),
        Peer("pyconvopt.nn", "pyconvopt_", {"manner": "nn"}, ours=True),
        Peer("pyconvopt.accelerate", "pyconvopt_", {"manner": "accelerate"}, ours=True),
        Peer(
            "pyconvopt.frozen", "pyconvopt_", {"manner": "frozen"}, ours=True, works=("inference",)
        ),
        Peer("torch.channels_last", "torch_", {"channels_last": True}, works=ALL),
        Peer("torch.nchw", "torch_", {"channels_last": False}, works=ALL),
        Peer("torch.compile", "torch_", {"channels_last": True, "compiled": True}),
        Peer(
            "torch.frozen", "torch_", {"channels_last": True, "frozen": True}, works=("inference",)
        ),
        Peer(
            "torch.channels_last_malloc",
            "torch_",
            {"channels_last": True},
            environment=KEEP_MEMORY,
            tuned=True,
            works=("train_step",),
        ),
        Peer("keras.model", "keras_", {"manner": "model"}, KERAS, works=("train_step", "fit")),
        Peer("keras.function", "keras_", {"manner": "function"}, KERAS, works=("train_step",)),
        Peer("onnxruntime", "onnxruntime_", works=("layer", "inference")),
        Peer("openvino", "openvino_", works=("layer", "inference")),
        Peer("ncnn", "ncnn_", works=("inference",)),
    )
}


def measured_in(work: str) -> list[str]:
    """The names of the peers that are measured in this work by default."""
    return [peer.name for peer in TABLE.values() if work in peer.works]


def choose(names: list[str], work: str) -> list[Peer]:
    """The peers of these names, and those of these families that are measured in this work.

    In the order of the table. Errors: ValueError for a name that is neither, or of a family that the work
    has no peer of.
    """
    chosen: set[str] = set()
    for name in names:
        family = [name] if name in TABLE else [p.name for p in TABLE.values() if p.family == name]
        if not family:
            raise ValueError(f"unknown peer {name!r}; known: {', '.join(TABLE)}")
        found = [each for each in family if each == name or work in TABLE[each].works]
        if not found:
            raise ValueError(
                f"no peer of {name!r} is measured here; its peers: {', '.join(family)}"
            )
        chosen.update(found)
    return [peer for peer in TABLE.values() if peer.name in chosen]
