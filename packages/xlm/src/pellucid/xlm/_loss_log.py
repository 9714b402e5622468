"""The log of a run as JSON lines, one object per logged step."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger


class LossLog(Logger):
    """Writes what is logged to `metrics.jsonl`, and nothing else of the run's directory.

    A run that resumes goes on in the same file; what it logs anew for a step stands after what an
    interrupted run logged for it, and counts.

    Args:
        save_dir: The run's directory.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self._dir = Path(save_dir)

    @property
    def name(self) -> str:
        """Nothing: the file lies in the run's directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Nothing, as for `name`."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's directory."""
        return str(self._dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Nothing: there is no service behind this log."""
        return None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Write nothing: the configuration is in the manifest."""
        del params, args

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line.

        Args:
            metrics: Name to value.
            step: The optimizer step.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        with (self._dir / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")


__all__ = ["LossLog"]
