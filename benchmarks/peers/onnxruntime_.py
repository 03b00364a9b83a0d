"""ONNX Runtime on its CPU provider: inputs and outputs bound, so that a run allocates nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import models, tensors
from benchmarks.peers import Workload, onnx_
from benchmarks.problems import Problem


def version() -> str:
    return f"onnxruntime {onnxruntime.__version__}"


def bind(
    model: str | bytes, x: np.ndarray, threads: int
) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """What runs the model on `x`, and what reads its result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    owned = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, owned)
    shape = session.get_outputs()[0].shape
    y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu")
    binding.bind_ortvalue_output(session.get_outputs()[0].name, y)

    def run() -> None:
        session.run_with_iobinding(binding)

    def result() -> np.ndarray:
        run()
        return y.numpy()

    return run, result


def make_layer(problem: Problem, threads: int, *, pass_: str) -> Workload:
    x = tensors.draw(tensors.INPUT, problem.input_shape)
    run, result = bind(onnx_.convolution(problem, pass_), x, threads)
    return Workload(run, lambda: tensors.samples(result()), 0, version())


def make_inference(
    model: models.Model, batch: int, threads: int, *, data: str | None = None
) -> Workload:
    x, y = onnx_.example(model, batch)
    run, result = bind(str(onnx_.model_file(data)), x, threads)
    return Workload(run, lambda: models.cross_entropy(result(), y), 0, version())
