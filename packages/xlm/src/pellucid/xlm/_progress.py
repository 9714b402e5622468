"""A progress bar that never waits for the device."""

import sys
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

_TERMINAL_S = 0.2
_FILE_S = 30.0


class ProgressBar(Callback):
    """Shows the optimizer steps of a run, and what was last logged, on the first rank.

    It redraws a few times a second on a terminal, and writes a line every half a minute to a file.
    Values are read only in steps that are logged anyway.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._step = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start at the step that the run starts or resumes at."""
        del pl_module
        if trainer.is_global_zero:
            total = trainer.max_steps if trainer.max_steps > 0 else None
            self._step = trainer.global_step
            self._bar = _bar("train", total, initial=self._step)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a step."""
        del pl_module, outputs, batch, batch_idx
        if self._bar is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % max(getattr(trainer, "log_every_n_steps", 1), 1) == 0:
            self._bar.set_postfix(_shown(trainer), refresh=False)
        self._bar.update()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave the bar where it is."""
        del pl_module
        if self._bar is not None:
            self._bar.set_postfix(_shown(trainer))
        self._close()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Leave the bar where it is."""
        del trainer, pl_module, exception
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(title: str, total: int | None, *, initial: int) -> Any:
    interval = _TERMINAL_S if sys.stderr.isatty() else _FILE_S
    return tqdm(
        total=total,
        initial=initial,
        desc=title,
        unit="step",
        mininterval=interval,
        file=sys.stderr,
        dynamic_ncols=sys.stderr.isatty(),
    )


def _shown(trainer: lightning.Trainer) -> dict[str, str]:
    values = trainer.progress_bar_metrics
    return {name: f"{value:.4g}" for name, value in values.items() if isinstance(value, float)}


__all__ = ["ProgressBar"]
