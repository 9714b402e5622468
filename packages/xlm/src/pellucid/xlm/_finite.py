"""A watch for losses that are no numbers, which waits for the device only when asked."""

import math

import torch
from torch import Tensor

from pellucid.core import PellucidError


class NonFiniteLossError(PellucidError, RuntimeError):
    """The loss became infinite or not a number.

    Attributes:
        step: The first optimizer step at which it did.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(
            f"the loss is not finite since step {step}; lower the learning rate, clip gradients, "
            "or look at the batch of that step. No checkpoint was written since"
        )

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.step,)


class FiniteWatch:
    """Remembers the first step with a loss that is no number, on the device.

    On a CPU each step is checked at once. On an accelerator that would wait for every step to
    finish; there the watch is read when something is logged or saved.
    """

    def __init__(self) -> None:
        self._first_bad: Tensor | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """Look at the loss of a step.

        Raises:
            NonFiniteLossError: It is not finite, and lies on the CPU.
        """
        value = loss.detach()
        if value.device.type == "cpu":
            # Several times as fast as torch's own test of a single number.
            if not math.isfinite(value.item()):
                raise NonFiniteLossError(step)
            return
        if self._first_bad is None:
            self._first_bad = torch.full((), -1, device=value.device, dtype=torch.long)
        is_first = ~torch.isfinite(value) & (self._first_bad < 0)
        self._first_bad.masked_fill_(is_first, step)

    def check(self) -> None:
        """Wait for the device, and complain of what was seen.

        Raises:
            NonFiniteLossError: A loss since the last check was not finite.
        """
        if self._first_bad is not None:
            step = int(self._first_bad.item())
            if step >= 0:
                raise NonFiniteLossError(step)


__all__ = ["FiniteWatch", "NonFiniteLossError"]
