"""What a person sees of a run: a bar on a terminal, and a line an epoch everywhere.

The bar shows loss, metrics, rate (images a second) and the time left of the whole run. It looks at
the numbers ten times a second however many batches pass, because reading them waits for the device.
"""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar

from typing_extensions import override

from pyconvopt.training.callbacks import Callback, Logs

SECONDS_BETWEEN_LOOKS = 0.1


def has_terminal() -> bool:
    """Whether a person watches."""
    return sys.stdout.isatty()


def numbers(logs: Logs) -> str:
    """Names and values in one line; small ones, such as learning rates, keep their digits.

    >>> numbers({'loss': 0.25, 'learning_rate': 0.00031})
    'loss 0.2500  learning_rate 3.10e-04'
    """
    return "  ".join(
        f"{name} {value:.2e}" if 0 < abs(value) < 1e-3 else f"{name} {value:.4f}"
        for name, value in logs.items()
    )


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, hours too where there are any.

    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressBar(Callback):
    """`rich`'s bar while an epoch runs on a terminal that has it; a plain line when it is done.

    Args: bar (None: decide by the terminal; False: no bar; True: the bar wherever `rich` is).
    """

    first_process_only: ClassVar[bool] = True
    only_shows: ClassVar[bool] = True

    def __init__(self, bar: bool | None = None) -> None:
        self.wanted = bar
        self.bar: Any = None

    @override
    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.bar = make_bar() if self.wanted or (self.wanted is None and has_terminal()) else None
        if self.bar is not None:
            self.bar.start()

    @override
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch
        self.started = self.looked = time.perf_counter()
        self.trained: float | None = None
        if self.bar is not None:
            title = f"epoch {epoch + 1}/{self.params['epochs']}"
            self.task = self.bar.add_task(title, total=self.params["samples"], state="")

    @override
    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.bar is None:
            return
        now = time.perf_counter()
        if now - self.looked >= SECONDS_BETWEEN_LOOKS:
            self.looked = now
            state = f"{numbers(logs or {})}  {self.rate():,.0f} images/s{self.time_left()}"
            self.bar.update(self.task, completed=self.trainer.samples_seen, state=state)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": time.perf_counter() - self.started}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.started = time.perf_counter() - state["elapsed"]

    def rate(self) -> float:
        """Images a second in this epoch's training, validation left out."""
        spent = self.trained or time.perf_counter() - self.started
        return self.seen() / max(spent, 1e-9)

    def seen(self) -> int:
        """The images of this epoch so far; validation counts its own."""
        return self.images if self.trained else self.trainer.samples_seen

    def time_left(self) -> str:
        """What is left of the run at the present rate; nothing where its length is unknown."""
        samples = self.params["samples"]
        if samples is None or not self.trainer.samples_seen:
            return ""
        rest = (self.params["epochs"] - self.epoch) * samples - self.trainer.samples_seen
        return f"  {clock(rest / self.rate())} left"

    @override
    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.stop_clock()

    def stop_clock(self) -> None:
        """Training of this epoch is over: its time and number of images stand."""
        if self.trained is None:
            self.images = self.trainer.samples_seen
            self.trained = time.perf_counter() - self.started

    @override
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.stop_clock()
        line = (
            f"epoch {epoch + 1}/{self.params['epochs']}  {time.perf_counter() - self.started:.1f} s"
            f"  {self.rate():,.0f} images/s  {numbers(logs or {})}"
        )
        if self.bar is None:
            print(line, flush=True)
        else:
            self.bar.remove_task(self.task)
            self.bar.console.print(line, highlight=False, soft_wrap=True)

    @override
    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def make_bar() -> Any:
    """A `rich` progress display, or None where `rich` is missing: plain lines need nothing."""
    try:
        from rich.progress import BarColumn, Progress, TextColumn
    except ModuleNotFoundError:
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}"),
    )
    return Progress(*columns, expand=True, transient=True)
