"""OpenVINO on the CPU, in float32 (by default it takes bfloat16 where the processor has it)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino

from benchmarks import models, tensors
from benchmarks.peers import Workload, onnx_
from benchmarks.problems import Problem


def version() -> str:
    return f"openvino {openvino.__version__}"


def compiled(
    model: str | io.BytesIO, x: np.ndarray, threads: int
) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """What runs the model on `x`, and what reads its result."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))

    def result() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return request.infer, result


def make_layer(problem: Problem, threads: int, *, pass_: str) -> Workload:
    model = io.BytesIO(onnx_.convolution(problem, pass_))
    x = tensors.draw(tensors.INPUT, problem.input_shape)
    run, result = compiled(model, x, threads)
    return Workload(run, lambda: tensors.samples(result()), 0, version())


def make_inference(
    model: models.Model, batch: int, threads: int, *, data: str | None = None
) -> Workload:
    x, y = onnx_.example(model, batch)
    run, result = compiled(str(onnx_.model_file(data)), x, threads)
    return Workload(run, lambda: models.cross_entropy(result(), y), 0, version())
