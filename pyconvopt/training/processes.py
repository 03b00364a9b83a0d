"""Several processes that train one model, as `torchrun` starts them, on one machine or many.

Every process has the whole data set and goes through it in the same order. Of each batch it takes its
own part, computes the gradient of that, and torch's DistributedDataParallel averages the gradients:
the update is the one a single process would make with the joined batch. So that it is exactly that:

- the parts are parts of the very batch a single process would see, none left out, none twice. They
  may differ by one sample, a part of a small last batch may be empty; each process' loss is weighted
  by its share of the samples;
- batch norms take the mean and variance of the joined batch;
- the transforms of an image are drawn from seed, epoch and the image's number, as ever;
- loss and metrics are those of the joined batch, in every process, after one small message a step.

What this library's layers draw in a forward pass (dropout) each process draws for its own samples, by
their numbers in the joined batch (see `pyconvopt.draws`); what others draw with torch's generator,
by the number of its first sample. The generator itself stays in the same state in every process.

All processes hold the same weights, optimiser state and numbers throughout. What is written or shown,
the first process writes and shows.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from pyconvopt.data.loader import ArrayLoader, Loader, part_of
from pyconvopt.draws import drawing
from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.nn import BatchNorm2d, SyncBatchNorm
from pyconvopt.randomness import random_states, random_states_kept, set_random_states
from pyconvopt.training.inference import evaluating, first_samples, place

if TYPE_CHECKING:
    from pyconvopt.training.evaluator import Evaluator

T = TypeVar("T")

# Those that SyncBatchNorm can stand in for; subclasses have ideas of their own about the batch.
PLAIN_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm2d)

HINT_AFTER_RESTART = (
    "torchrun's store may still hold the addresses of the processes before the restart: on several "
    "machines start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
)


def join() -> Processes:
    """The processes of this run; under `torchrun` they meet here if they have not yet.

    Outside it, or with a single process, that is `Processes()`, which does nothing.

    Errors: RuntimeError if they cannot meet.
    """
    if not dist.is_available():
        return Processes()
    if not dist.is_initialized() and dist.is_torchelastic_launched():
        try:
            meet()
        except RuntimeError as error:
            if not restarted():
                raise
            raise RuntimeError(f"{error}; {HINT_AFTER_RESTART}") from None
        # Gloo's threads must have ended when the program does, or it is aborted.
        atexit.register(leave)
    if not dist.is_initialized():
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


def meet() -> None:
    """Make the group of the processes that `torchrun` started.

    It keeps its store when it starts them anew, and in it the addresses of the old ones, so each start
    has keys of its own. On several machines their torchruns may count the starts differently; there
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment gives each start a store of its own.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        dist.init_process_group("gloo")
        return
    store, rank, count = next(dist.rendezvous("env://"))
    own = dist.PrefixStore(f"start {starts()}", store)
    dist.init_process_group("gloo", store=own, rank=rank, world_size=count)


def starts() -> int:
    """How often `torchrun` has started the processes anew, because one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def restarted() -> bool:
    """Whether this process is one of those started anew."""
    return starts() > 0


def leave() -> None:
    """Leave the group at the program's end, if the program has not done so."""
    if dist.is_initialized():
        gc.collect()  # DistributedDataParallel is part of a cycle, and holds the group
        dist.destroy_process_group()


class Processes:
    """What the training loop asks about the others; with one process every answer is trivial.

    Args: rank (0, this process' number), count (1).
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count
        self.parallel: nn.Module | None = None
        self.weight = 1.0  # of this process' loss of the batch at hand
        self.samples = 0  # in that batch, of all processes
        self.first_sample = 0  # of this process' part, in that batch
        self.seed: int | None = None  # of what layers draw; None: torch's generator says

    @property
    def is_first(self) -> bool:
        """Whether this one writes and shows what is to be written and shown."""
        return self.rank == 0

    # --- before the first step

    def align(self, *loaders: Any) -> None:
        """Give every process the random states of the first, and its order of the data.

        Errors: ValueError for a DataLoader that deals its samples out to the processes itself.
        """
        if self.count == 1:
            return
        set_random_states(self.from_first(random_states))
        for loader in loaders:
            if isinstance(loader, ArrayLoader):
                loader.seed, loader.epoch = self.from_first(lambda: (loader.seed, loader.epoch))  # noqa: B023
            elif isinstance(getattr(loader, "sampler", None), DistributedSampler):
                raise ValueError(
                    "the DataLoader has a DistributedSampler, but every process takes its part of "
                    "each batch here: give the DataLoader a sampler for all samples"
                )

    def connect(self, model: nn.Module, loader: Loader, synchronize: bool) -> None:
        """Have gradients averaged from now on, and batch norms see the joined batch."""
        if self.count == 1:
            return
        if synchronize:
            synchronize_batch_norms(model)
        self.parallel = DistributedDataParallel(model)
        if not getattr(loader, "is_read_once", False):
            rehearse(self.parallel, loader)

    # --- a step

    def own(self, loader: Loader, batches: Iterable[Any]) -> Iterable[Any]:
        """This process' part of every batch."""
        return batches if self.count == 1 else self.parts(loader, batches)

    def parts(self, loader: Loader, batches: Iterable[Any]) -> Iterator[Any]:
        """The same, as a generator; an `ArrayLoader` reads only what is wanted."""
        if not isinstance(loader, ArrayLoader):
            for batch in batches:
                own = part_of(len(batch[0]), self.rank, self.count)
                self.first_sample = own.start
                yield [each[own] for each in batch]
            return
        loader.part = (self.rank, self.count)
        try:
            for batch in batches:
                self.first_sample = loader.first_of_part
                yield batch
        finally:
            loader.part = (0, 1)

    def drawing(self, trainer: Any, samples: int) -> AbstractContextManager[None]:
        """Within, layers draw what the trainer's seed and step give these samples of the joined batch."""
        if self.seed is None:
            return nullcontext()
        if not trainer.model.training:  # of an evaluation's batches each has a place of its own
            place, before = [self.seed, trainer.step_number, trainer.samples_seen], 0
        else:
            place, waiting = [self.seed, trainer.step_number], trainer.accumulation
            before = 0 if waiting is None else waiting.samples
        return drawing(*place, first_sample=before + self.first_sample, samples=samples)

    def count_batch(
        self, trainer: Evaluator, loss: Tensor, outputs: Tensor, targets: Tensor
    ) -> Tensor:
        """Add the joined batch to the trainer's means, from each process' part; returns its loss."""
        sizes = loss.new_tensor([len(targets)])
        adding = [each for each in trainer.metrics if each.adds_up]
        measured = [each.measure(outputs, targets, trainer.takes_logits) for each in adding]
        size, total, *sums = self.sums(sizes, loss * len(targets), *measured)
        self.samples = int(size)
        self.weight = len(targets) * self.count / self.samples
        trainer.samples_seen += self.samples
        trainer.loss_mean.add(total, self.samples)
        for metric, each in zip(adding, sums, strict=True):
            metric.add(each, self.samples)
        others = [each for each in trainer.metrics if not each.adds_up]
        if others:
            outputs, targets = self.whole(outputs), self.whole(targets)
        for metric in others:
            metric.update(outputs, targets, trainer.takes_logits)
        return total / self.samples

    def weighted(self, loss: Tensor) -> Tensor:
        """A part's loss such that the processes' average is the mean over the joined batch."""
        return loss if self.count == 1 else loss * self.weight

    # --- messages: every process must take part in each

    def sums(self, *numbers: Tensor | float) -> list[Tensor]:
        """Each value summed over the processes, in double, by one message."""
        values = [torch.as_tensor(each) for each in numbers]
        flat = torch.cat([each.detach().double().reshape(-1) for each in values])
        dist.all_reduce(flat)
        parts = flat.split([each.numel() for each in values])
        return [
            part.reshape(each.shape).to(each.dtype)
            for part, each in zip(parts, values, strict=True)
        ]

    def whole(self, part: Tensor) -> Tensor:
        """The joined batch, from each process' part of it."""
        sizes = [part_of(self.samples, rank, self.count) for rank in range(self.count)]
        counts = [each.stop - each.start for each in sizes]
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return torch.cat([each[:count] for each, count in zip(found, counts, strict=True)])

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in the first one; elsewhere an empty list."""
        if self.count == 1:
            return [value]
        found: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, found)
        return found or []

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in every process; its error too."""
        if self.count == 1:
            return make()
        message: list[Any] = [None, None]
        if self.is_first:
            try:
                message[0] = make()
            except (ValueError, OSError) as error:
                message[1] = error
        dist.broadcast_object_list(message)
        if message[1] is not None:
            raise message[1]
        return message[0]


def synchronize_batch_norms(model: nn.Module) -> None:
    """Let the batch norms of a model take the joined batch; alone they are what they were."""
    for module in model.modules():
        if isinstance(module, BatchNormalization):
            module.synchronized = True
        elif type(module) in PLAIN_BATCH_NORMS:
            module.process_group = None  # type: ignore[assignment]
            module.__class__ = SyncBatchNorm


def rehearse(parallel: nn.Module, loader: Loader) -> None:
    """Let DistributedDataParallel find its order of the gradients before the first step.

    After the first backward pass it packs them anew, and from three processes on the packing decides
    in which order numbers are added: without this, a run taken up again differs in last bits.
    """
    device, dtype = place(parallel)
    with random_states_kept():
        image = first_samples(loader)[:1].to(device, dtype)
    with evaluating(parallel), torch.enable_grad():
        parallel(image).sum().backward()
    parallel.zero_grad(set_to_none=True)
