"""What a run does beside training: average weights, save, show where it is, log, stop."""

from pellucid.xlm._checkpoint_callback import InterruptCheckpoint, ThinningCheckpoint
from pellucid.xlm._checkpoint_io import AtomicCheckpointIO
from pellucid.xlm._ema import EMACallback
from pellucid.xlm._loss_log import LossLog
from pellucid.xlm._prediction_log import ConsoleWriter, FileWriter, LoggerWriter, LogPredictions
from pellucid.xlm._progress import ProgressBar

__all__ = [
    "AtomicCheckpointIO",
    "ConsoleWriter",
    "EMACallback",
    "FileWriter",
    "InterruptCheckpoint",
    "LogPredictions",
    "LoggerWriter",
    "LossLog",
    "ProgressBar",
    "ThinningCheckpoint",
]
