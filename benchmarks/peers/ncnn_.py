"""ncnn in float32; it has no batches, so the images go through one by one.

Its model is made from the ONNX file by pnnx, whose executable is started without importing the
package: that would import torch.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path

import ncnn
import numpy as np

from benchmarks import models
from benchmarks.peers import Workload, onnx_


def converter() -> Path:
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise NotImplementedError("converting a model for ncnn needs the package pnnx")
    return Path(found.origin).with_name("pnnx")


def load(file: Path, shape: tuple[int, ...], threads: int) -> ncnn.Net:
    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"
        copy.write_bytes(file.read_bytes())
        size = ",".join(map(str, shape))
        command = [str(converter()), copy.name, f"inputshape=[{size}]"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for load_part, suffix in ((net.load_param, "param"), (net.load_model, "bin")):
            path = copy.with_suffix(f".ncnn.{suffix}")
            if not path.exists() or load_part(str(path)):
                raise NotImplementedError("pnnx or ncnn does not take this model")
    return net


def make_inference(
    model: models.Model, batch: int, threads: int, *, data: str | None = None
) -> Workload:
    x, y = onnx_.example(model, batch)
    net = load(onnx_.model_file(data), x.shape, threads)
    images = [ncnn.Mat(image).clone() for image in x]

    def run() -> list[ncnn.Mat]:
        results = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in0", image)
            results.append(extractor.extract("out0")[1])
        return results

    def check() -> float:
        return models.cross_entropy(np.stack([np.array(logits) for logits in run()]), y)

    return Workload(run, check, 0, f"ncnn {ncnn.__version__}")
