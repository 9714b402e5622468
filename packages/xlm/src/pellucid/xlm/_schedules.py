"""How the learning rate goes over a run."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pellucid.core import ArgumentError, UnknownNameError

Factor = Callable[[float], float]
"""Fraction of the steps after the warm-up that are done, to the share of the full rate."""


def build_lr_schedule(
    optimizer: Optimizer,
    *,
    name: str,
    num_training_steps: int | None = None,
    num_warmup_steps: int = 0,
    fraction_warmup_steps: float | None = None,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Build a schedule that is stepped after every optimizer step.

    Args:
        optimizer: Whose rates it scales.
        name: constant, constant_with_warmup, linear, cosine or cosine_with_min_lr.
        num_training_steps: Length of the run; the last three need it.
        num_warmup_steps: Steps over which the rate rises from 0 to its full value.
        fraction_warmup_steps: The same as a fraction of `num_training_steps`.
        num_cycles: Waves of a cosine: 0.5 falls once.
        min_lr: Where cosine_with_min_lr ends.
        min_lr_rate: The same as a fraction of the full rate.

    Raises:
        UnknownNameError: There is no schedule of that name.
        ArgumentError: A number is missing, or has no meaning for that schedule.
    """
    if name not in _BUILDERS:
        raise UnknownNameError("learning rate schedule", name, _BUILDERS)
    warmup = _warmup(num_warmup_steps, fraction_warmup_steps, num_training_steps)
    if name == "constant" and warmup:
        message = f"constant takes no num_warmup_steps, got {warmup!r}; use constant_with_warmup"
        raise ArgumentError(message)
    if name in _NEED_LENGTH and not num_training_steps:
        raise ArgumentError(f"{name} needs num_training_steps; set lr_scheduler.num_training_steps")
    floor = _floor(name, optimizer, min_lr, min_lr_rate)
    factor = _BUILDERS[name](num_cycles, floor)
    rest = max((num_training_steps or 0) - warmup, 1)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return factor(min((step - warmup) / rest, 1.0))

    return LambdaLR(optimizer, share)


def _warmup(steps: int, fraction: float | None, length: int | None) -> int:
    if fraction is None:
        if steps < 0:
            raise ArgumentError(f"num_warmup_steps must be 0 or more, got {steps!r}")
        return steps
    if steps:
        raise ArgumentError("give num_warmup_steps or fraction_warmup_steps, not both")
    if not length or not 0 <= fraction <= 1:
        message = (
            f"fraction_warmup_steps {fraction!r} must lie in [0, 1] and needs num_training_steps"
        )
        raise ArgumentError(message)
    return round(fraction * length)


def _floor(
    name: str, optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None
) -> float:
    if name != "cosine_with_min_lr":
        return 0.0
    if (min_lr is None) == (min_lr_rate is None):
        raise ArgumentError("cosine_with_min_lr needs min_lr or min_lr_rate, one of them")
    if min_lr is not None:
        return min_lr / optimizer.param_groups[0]["lr"]
    return min_lr_rate or 0.0


def _constant(num_cycles: float, floor: float) -> Factor:
    del num_cycles, floor
    return lambda done: 1.0


def _linear(num_cycles: float, floor: float) -> Factor:
    del num_cycles, floor
    return lambda done: 1.0 - done


def _cosine(num_cycles: float, floor: float) -> Factor:
    def factor(done: float) -> float:
        wave = 0.5 * (1.0 + math.cos(2.0 * math.pi * num_cycles * done))
        return floor + (1.0 - floor) * wave

    return factor


_BUILDERS: dict[str, Callable[[float, float], Factor]] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "cosine": _cosine,
    "cosine_with_min_lr": _cosine,
    "linear": _linear,
}
_NEED_LENGTH = ("linear", "cosine", "cosine_with_min_lr")

__all__ = ["build_lr_schedule"]
