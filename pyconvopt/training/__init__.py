"""Training: the loop, what hangs on it, and what it leaves behind."""

from pyconvopt.training.backup import BackupAndRestore, Terminated
from pyconvopt.training.callbacks import (
    Callback,
    LambdaCallback,
    LearningRateMonitor,
    LearningRateScheduler,
    TerminateOnNaN,
)
from pyconvopt.training.checkpoint import CheckpointFolder
from pyconvopt.training.clipping import AdaptiveClip
from pyconvopt.training.compare import Comparison, compare
from pyconvopt.training.find_lr import RangeTest, find_lr
from pyconvopt.training.history import History
from pyconvopt.training.loggers import CSVLogger, TensorBoard
from pyconvopt.training.monitors import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from pyconvopt.training.progress import ProgressBar
from pyconvopt.training.scaling import best_machines, step_time
from pyconvopt.training.sweep import Sweep, sweep
from pyconvopt.training.trainer import Trainer

__all__ = [
    "AdaptiveClip",
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CheckpointFolder",
    "Comparison",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateMonitor",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgressBar",
    "RangeTest",
    "ReduceLROnPlateau",
    "Sweep",
    "TensorBoard",
    "TerminateOnNaN",
    "Terminated",
    "Trainer",
    "best_machines",
    "compare",
    "find_lr",
    "step_time",
    "sweep",
]
