"""What the runtimes that read ONNX share: a convolution as a model, and a model's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import models, tensors
from benchmarks.problems import Problem


def convolution(problem: Problem, pass_: str) -> bytes:
    """A model of one convolution, `x` to `y`, its weight a constant.

    Errors: NotImplementedError for any other layer or pass; ImportError without `onnx`.
    """
    if problem.kind != "convolution" or pass_ != "forward":
        raise NotImplementedError("an inference runtime: the forward pass of convolutions only")
    from onnx import TensorProto, helper, numpy_helper

    vertical, horizontal = problem.padding_height, problem.padding_width
    node = helper.make_node(
        "Conv",
        ["x", "weight"],
        ["y"],
        strides=[problem.stride] * 2,
        pads=[vertical, horizontal] * 2,
        group=problem.groups,
    )
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, problem.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, problem.output_shape)],
        [numpy_helper.from_array(tensors.draw(tensors.WEIGHT, problem.weight_shape), "weight")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def model_file(data: str | None) -> Path:
    """The model's ONNX file.

    Errors: NotImplementedError if it was not written; see `benchmarks.inference`.
    """
    if data is None or not Path(data).exists():
        raise NotImplementedError("there is no ONNX file of this model")
    return Path(data)


def example(model: models.Model, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images as (N, C, H, W) and labels."""
    x, y = models.example_batch(model, batch)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y
