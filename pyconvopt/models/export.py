"""A trained model for other programs: its weights, a torch program, or ONNX.

    .safetensors   the weights under the names of `state_dict`
    .pt2           `torch.export`'s program: torch runs it, without this library
    .onnx          for ONNX runtimes; the extra 'onnx' brings what writes it

Programs take batches of any size and give what `predict` gives: the model in evaluation mode.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyconvopt.extras import require


def program(model: Any) -> torch.export.ExportedProgram:
    """The model as `torch.export` sees it in evaluation mode, its batch of any size.

    Errors: ValueError for a model whose input shape is not known, or that cannot be exported.
    """
    from pyconvopt.training.inference import evaluating

    shape = model.input_shape
    if shape is None or None in shape[1:]:
        raise ValueError(f"the model's input shape must be known to export it, got {shape}")
    batch = {0: torch.export.Dim("batch")}
    try:
        with evaluating(model):
            return torch.export.export(
                model, (torch.zeros(2, *shape[1:]),), dynamic_shapes=(batch,)
            )
    except RuntimeError as error:
        raise ValueError(f"torch.export cannot export the model: {error}") from error


def weights(model: Any) -> bytes:
    """The weights as safetensors."""
    save = require("safetensors.torch", "writing weights").save
    # Copies: safetensors refuses names that share their memory, as those of one weight do.
    return save(
        {name: each.detach().contiguous().clone() for name, each in model.state_dict().items()}
    )


def torch_program(model: Any) -> bytes:
    """`torch.export`'s archive; `torch.export.load` reads it."""
    content = io.BytesIO()
    torch.export.save(program(model), content)
    return content.getvalue()


def onnx(model: Any) -> bytes:
    """An ONNX model, weights included."""
    for package in ("onnx", "onnxscript"):
        require(package, "writing ONNX", extra="onnx")
    exported = program(model)
    # The exporter reports each operator it has no use for.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of torch's own exporter, which uses what torch has deprecated.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        path = Path(folder) / "model.onnx"
        made = torch.onnx.export(exported, dynamo=True, verbose=False)
        assert made is not None
        made.save(str(path), external_data=False)
        return path.read_bytes()


FORMATS: dict[str, Callable[[Any], bytes]] = {
    ".safetensors": weights,
    ".pt2": torch_program,
    ".onnx": onnx,
}


def export(model: Any, path: str | Path) -> None:
    """Write the model as the path's ending says: .safetensors, .pt2 or .onnx.

    Errors: ValueError for another ending or a model that cannot be exported; ImportError naming
    the extra if what writes the format is missing.
    """
    from pyconvopt.files import write_whole

    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"the file to export to must end in {', '.join(FORMATS)}, got {path.name!r}"
        )
    write_whole(path, FORMATS[path.suffix](model))
