"""A process of several: runs commands, and keeps what each of them said in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import torch

from pyconvopt import cli
from pyconvopt.training.backup import Terminated
from pyconvopt.training.callbacks import Callback
from tests.training.joined import arrays, keras
from tests.training.resumable import images

SMALL = [part for layer in (0, 2, 4) for part in ("--set", f"layers.{layer}.filters=4")]
TRAINED = "trained/weights.safetensors"
COMMANDS = {
    "train": ["train", *SMALL, "--epochs", "1", "--out", "trained"],
    "compare": [
        *("compare", "adam=seed", "sgd=seed,compile.optimizer=sgd", *SMALL),
        *("--set", "fit.epochs=1", "--seeds", "2", "--out", "compared"),
    ],
    "sweep": ["sweep", *SMALL, "--over", "fit.batch_size=[20, 30]", "--epochs", "1"],
    "find-lr": ["find-lr", *SMALL, "--steps", "20"],
    "evaluate": ["evaluate", "trained"],
    "predict": ["predict", TRAINED, "x.npy"],
    "explain": ["explain", TRAINED, "--batch-size", "2"],
    "export": ["export", TRAINED, "exported.safetensors"],
    "doctor": ["doctor"],
}


class AskToEnd(Callback):
    """SIGTERM to this process after a batch."""

    def on_train_batch_end(self, batch, logs=None) -> None:
        if batch == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def terminated() -> int:
    """A run that one of the processes is asked to end."""
    own = [AskToEnd()] if os.environ["RANK"] == "1" else []
    try:
        keras().fit(**arrays(callbacks=own, validation=images()), checkpoint="checkpoint")
    except Terminated as error:
        return error.code
    return 0


def main() -> None:
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    for name, arguments in [*COMMANDS.items(), ("terminated", None)]:
        with (
            open(f"{name}-{rank}.out", "w") as out,
            open(f"{name}-{rank}.err", "w") as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = terminated() if arguments is None else cli.run(arguments)
            print(f"status {status}", file=out)


if __name__ == "__main__":
    sys.exit(main())
