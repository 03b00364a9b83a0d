"""One of several processes, started by torchrun: steps of accelerated models on its share of a batch.

``torchrun --standalone --nproc-per-node=2 -m tests.accelerate.distributed_steps FOLDER`` writes
FOLDER/RANK.pt: for each way of preparing the model its gradients, statistics and evaluation.
"""

from __future__ import annotations

import gc
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pyconvopt as pco

from .networks import pair_of


def plain(name):
    """The same weights and batch in every process."""
    torch.manual_seed(0)
    return pair_of(name)


def converted_before(model):
    return pco.accelerate(nn.SyncBatchNorm.convert_sync_batchnorm(model))


def converted_after(model):
    return pco.nn.SyncBatchNorm.convert_sync_batchnorm(pco.accelerate(model))


def converted_between(model):
    """By torch's method after accelerating: its modules are replaced by accelerating again."""
    return pco.accelerate(nn.SyncBatchNorm.convert_sync_batchnorm(pco.accelerate(model)))


# Network and what is made of it.
WAYS = {
    "without batch norm": ("article", pco.accelerate),
    "converted before": ("resnet", converted_before),
    "converted after": ("resnet", converted_after),
    "converted between": ("vgg", converted_between),
}


def two_steps(model, x):
    """Two steps of SGD; the gradients of the second, the statistics and the result in evaluation."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    gradients = [p.grad for p in model.parameters()]
    model.eval()
    with torch.no_grad():
        return gradients, list(model.buffers()), model(x)


def main(folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    results = {}
    for way, (name, prepare) in WAYS.items():
        model, x = plain(name)
        model = DistributedDataParallel(prepare(model))
        results[way] = two_steps(model, x.chunk(size)[rank])
    torch.save(results, f"{folder}/{rank}.pt")
    del model
    gc.collect()  # DistributedDataParallel is part of a cycle, and holds the group
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
