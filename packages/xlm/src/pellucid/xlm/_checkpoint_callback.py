"""When a run is saved, and which of its checkpoints stay."""

import signal
import threading
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from pellucid.core import ArgumentError

_SUFFIX = ".ckpt"


class ThinningCheckpoint(Checkpoint):
    """Saves every few optimizer steps and at the end; keeps the latest, the best and milestones.

    A checkpoint is called `step_00000500.ckpt`; the best by a metric `best_step_00000500.ckpt`.

    Args:
        dirpath: Where they go.
        every_n_train_steps: How often to save.
        keep_last: How many of the latest stay.
        keep_multiple: Steps whose every multiple stays; none if None.
        monitor: Metric by which the best is told; none is kept if None.
        mode: Whether "min" or "max" of it is best.

    Raises:
        ArgumentError: A number has no meaning.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int = 500,
        keep_last: int = 2,
        *,
        keep_multiple: int | None = None,
        monitor: str | None = None,
        mode: str = "min",
    ) -> None:
        for name, value in (("every_n_train_steps", every_n_train_steps), ("keep_last", keep_last)):
            if value < 1:
                raise ArgumentError(f"{name} must be 1 or more, got {value!r}")
        if mode not in ("min", "max"):
            raise ArgumentError(f"mode must be 'min' or 'max', got {mode!r}")
        self.dirpath = Path(dirpath)
        self.every_n_train_steps = every_n_train_steps
        self.keep_last = keep_last
        self.keep_multiple = keep_multiple
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        self.best_model_path = ""
        self._saved = -1

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far, so that a resumed run knows it."""
        return {"best_score": self.best_score, "best_model_path": self.best_model_path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score of before, if its checkpoint is still there."""
        if Path(state_dict["best_model_path"]).is_file():
            self.best_score = state_dict["best_score"]
            self.best_model_path = state_dict["best_model_path"]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Note what is on the disk already, and remove what a killed run left of a checkpoint."""
        del pl_module
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            for part in self.dirpath.glob(".*.partial"):
                part.unlink(missing_ok=True)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time to, once per optimizer step."""
        del pl_module, outputs, batch, batch_idx
        step = trainer.global_step
        due = step % self.every_n_train_steps == 0 or step == trainer.max_steps
        if due and step != self._saved:
            self._save(trainer, step)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save the best so far."""
        del pl_module
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            held = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ArgumentError(
                f"monitored metric {self.monitor!r} was not logged; there are: {held}. "
                "Set monitored_metric"
            )
        score = float(trainer.callback_metrics[self.monitor])
        if self.best_score is None or self._is_better(score, self.best_score):
            self._save_best(trainer, score)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save where training ended, be it early."""
        del pl_module
        if trainer.global_step not in (self._saved, 0):
            self._save(trainer, trainer.global_step)

    def _save(self, trainer: lightning.Trainer, step: int) -> None:
        trainer.save_checkpoint(self.dirpath / f"step_{step:08d}{_SUFFIX}")
        self._saved = step
        if trainer.is_global_zero:
            self._thin()

    def _save_best(self, trainer: lightning.Trainer, score: float) -> None:
        before = self.best_model_path
        path = self.dirpath / f"best_step_{trainer.global_step:08d}{_SUFFIX}"
        self.best_score, self.best_model_path = score, str(path)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero and before not in ("", str(path)):
            Path(before).unlink(missing_ok=True)

    def _is_better(self, score: float, best: float) -> bool:
        return score < best if self.mode == "min" else score > best

    def _thin(self) -> None:
        saved = checkpoints_in(self.dirpath)
        for path in saved[: -self.keep_last]:
            if self.keep_multiple is None or step_of(path) % self.keep_multiple:
                path.unlink(missing_ok=True)


class InterruptCheckpoint(ThinningCheckpoint):
    """The same, and a first Ctrl-C ends the run after its step, with a checkpoint.

    A second one ends it at once. Other signals are Lightning's.
    """

    was_interrupted = False
    _before: Any = None

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Wait for an interrupt."""
        del pl_module

        def stop(number: int, frame: Any) -> None:
            del frame
            self.was_interrupted = True
            trainer.should_stop = True
            signal.signal(number, self._before)

        # Only the main thread may ask for signals.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, stop)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Leave interrupts to whoever had them before."""
        del trainer, pl_module, stage
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


def checkpoints_in(directory: Path) -> list[Path]:
    """Return the checkpoints of a run by their step, the latest last."""
    found = [path for path in directory.glob(f"step_*{_SUFFIX}") if _has_step(path)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the optimizer step that a checkpoint's name tells."""
    return int(path.name.removesuffix(_SUFFIX).rpartition("_")[2])


def _has_step(path: Path) -> bool:
    return path.name.removesuffix(_SUFFIX).rpartition("_")[2].isdigit()


__all__ = ["InterruptCheckpoint", "ThinningCheckpoint", "checkpoints_in", "step_of"]
