"""Training: the loop, what hangs on it, and what it leaves behind."""

from pyconvopt.training.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    TerminateOnNaN,
)
from pyconvopt.training.history import History
from pyconvopt.training.progress import ProgressBar
from pyconvopt.training.trainer import Trainer

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ProgressBar",
    "TerminateOnNaN",
    "Trainer",
]
