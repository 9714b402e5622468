"""How many positions a step changes, in the course of a run."""

import dataclasses
import math
from abc import ABC, abstractmethod

from pellucid.core import ArgumentError
from pellucid.optimizers._protocol import check_counts


class NFlipScheduler(ABC):
    """Says how many positions a step changes. It remembers nothing, so that runs can resume."""

    @abstractmethod
    def get_n_flip(self, step: int) -> int:
        """Return the number of positions, at least 1, for a step, counted from 1."""


@dataclasses.dataclass(frozen=True)
class ConstantScheduler(NFlipScheduler):
    """Always the same number.

    Attributes:
        n_flip: The number.

    Raises:
        ArgumentError: If the number is less than 1.
    """

    n_flip: int

    def __post_init__(self) -> None:
        check_counts(n_flip=self.n_flip)

    def get_n_flip(self, step: int) -> int:
        """Return the number."""
        del step
        return self.n_flip


@dataclasses.dataclass(frozen=True)
class LinearScheduler(NFlipScheduler):
    """A number that declines evenly to 1, rounded up.

    Attributes:
        initial_n_flip: The number up to the step `decline_start`.
        total_steps: From this step on it is 1.
        decline_start: The last step before the decline; a float is a share of `total_steps`.

    Raises:
        ArgumentError: If a count is less than 1, or `decline_start` is not between 0 and
            `total_steps`, or 0 and 1 if it is a share.
    """

    initial_n_flip: int
    total_steps: int
    decline_start: int | float

    def __post_init__(self) -> None:
        check_counts(initial_n_flip=self.initial_n_flip, total_steps=self.total_steps)
        end = 1.0 if isinstance(self.decline_start, float) else self.total_steps
        # Written so that NaN is refused, too.
        if isinstance(self.decline_start, bool) or not 0 <= self.decline_start <= end:
            raise ArgumentError(
                f"decline_start must be a step up to total_steps={self.total_steps}, or a share "
                f"from 0.0 to 1.0, got {self.decline_start!r}."
            )

    def get_n_flip(self, step: int) -> int:
        """Return the number for a step, counted from 1."""
        start = self._start
        if step <= start:
            return self.initial_n_flip
        if step >= self.total_steps:
            return 1
        # In whole numbers, since rounding up makes much of a rounding error.
        left, steps = self.total_steps - step, self.total_steps - start
        return 1 - (-(self.initial_n_flip - 1) * left) // steps

    @property
    def _start(self) -> int:
        if isinstance(self.decline_start, float):
            return math.floor(self.decline_start * self.total_steps)
        return self.decline_start
