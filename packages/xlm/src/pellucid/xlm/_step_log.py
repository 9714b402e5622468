"""What was logged of a training step, until it is certain that the log has it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class StepLog:
    """The values that the latest logged training step hands to the loggers.

    Lightning hands them on after callbacks have saved. A run that is killed in between would resume
    after a step that no log has; so checkpoints keep what is logged of their step, and a run that
    resumes logs it again. Logs may have a step several times anyway: the last one counts.
    """

    _KEY = "logged"

    def __init__(self) -> None:
        self._step = -1
        self._values: dict[str, Tensor] = {}
        self._held: Mapping[str, Any] | None = None

    def note(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Take down values of a step, from 0; those of earlier steps are forgotten."""
        if step != self._step:
            self._step, self._values = step, {}
        self._values.update(values)

    def save(self, checkpoint: dict[str, Any], *, steps: int, epoch: int) -> None:
        """Write into a checkpoint what was logged of the last of so many steps, if anything was."""
        if self._values and self._step == steps - 1:
            values = {name: float(value) for name, value in self._values.items()}
            checkpoint[self._KEY] = {"step": self._step, "values": {**values, "epoch": epoch}}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Read what `save` wrote, for `replay`."""
        self._held = checkpoint.get(self._KEY)

    def replay(self, loggers: list[Any]) -> None:
        """Hand what a checkpoint held to loggers, once."""
        held, self._held = self._held, None
        if held is None:
            return
        for logger in loggers:
            logger.log_metrics(dict(held["values"]), step=held["step"])


__all__ = ["StepLog"]
