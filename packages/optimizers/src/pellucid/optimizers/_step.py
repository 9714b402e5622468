"""What one step of a run leaves behind."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step, as an iterator yields it and callbacks are given it.

    Attributes:
        step: Its number, counted from 1.
        loss: The loss of the trigger it ended with.
        best_loss: The lowest loss so far, the initial trigger's included.
        trigger: The trigger it ended with.
        best_trigger: The trigger of the lowest loss.
        elapsed_s: Seconds since the run began, time before a resume included.
        tokens: Tokens that all models have processed so far.
    """

    step: int
    loss: float
    best_loss: float
    trigger: str
    best_trigger: str
    elapsed_s: float
    tokens: int

    def to_record(self) -> dict[str, Any]:
        """Return what a tracker records of a step."""
        names = ("step", "loss", "best_loss", "trigger", "elapsed_s", "tokens")
        return {name: getattr(self, name) for name in names}


Callback: TypeAlias = Callable[[Step], bool | None]
"""Called after each step; True ends the run. Its `stop_reason`, if it has one, is recorded."""
