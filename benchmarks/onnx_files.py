"""The models as ONNX files for the runtimes that read those: torch's exporter, evaluation mode."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

from benchmarks.models import Model


def write(model: Model, batch: int, path: Path) -> None:
    """Write the model for images (batch, C, H, W) `x` and logits `y`, with the start that every peer has.

    Errors: ImportError where onnx or onnxscript is missing.
    """
    import onnx  # noqa: F401  said here, before torch says it less plainly
    import onnxscript  # noqa: F401
    import torch

    from benchmarks.peers import torch_

    module = torch_.start(model.torch(torch.nn)).eval()
    x, _ = torch_.example(model, batch)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x.contiguous(),),
            path,
            dynamo=True,
            external_data=False,
            input_names=["x"],
            output_names=["y"],
            verbose=False,
        )
