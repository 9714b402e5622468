"""When tokens appear and when they are shown: schedules from nothing (time 0) to text (time 1).

A schedule is the distribution of a time: `at(t)` is the chance that it has come by `t`. One says
when a token is inserted, as a mask, another one when the mask is lifted (Kim et al. 2025,
arXiv:2509.01025). Other than for the schedules of `pellucid.xlm.noise`, the text is at time 1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError


class InterpolantSchedule(ABC):
    """The distribution of a time in [0, 1]: `at(0)` is 0, `at(1)` is 1, and it grows between them.

    All methods keep the dtype of what they are given.
    """

    @abstractmethod
    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the chance that the time has come by `t`."""

    @abstractmethod
    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density of the time."""

    @abstractmethod
    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the hazard, `derivative_at(t) / (1 - at(t))`, which has no bound towards 1.

        Each schedule has it in a form that does not cancel there.
        """

    @abstractmethod
    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a chance from [0, 1], the inverse of `at`."""

    def sample(
        self,
        shape: Sequence[int],
        device: torch.device | str | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "..."]:
        """Draw times.

        Args:
            shape: Of the result.
            device: Of the result, and of the generator.
            generator: Where to draw from; torch's own if None.
            dtype: Of the result; torch's default if None.
        """
        uniforms = torch.rand(tuple(shape), generator=generator, device=device, dtype=dtype)
        return self.inv(uniforms)

    def sample_truncated(
        self,
        threshold: Float[Tensor, "*shape"],
        shape: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Draw times that are known to come after a threshold.

        Args:
            threshold: From [0, 1]; broadcast to the shape.
            shape: Of the result; that of the threshold if None.
            device: Of the result; that of the threshold if None.
            generator: Where to draw from; torch's own if None.
        """
        device = threshold.device if device is None else device
        shape = threshold.shape if shape is None else tuple(shape)
        uniforms = torch.rand(shape, generator=generator, device=device, dtype=threshold.dtype)
        passed = self.at(threshold)
        drawn = self.inv((passed + uniforms * (1 - passed)).clamp(max=1.0))
        # The two ways through the schedule are rounded, and never back before the threshold.
        return torch.maximum(drawn, threshold.expand(shape))

    def hazard_within(
        self, start: Float[Tensor, "*shape"], end: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the chance that a time comes by `end` if it has not by `start`.

        It is the hazard, integrated; for a short step the rate times its length, and 1 for a step
        to time 1, however long.
        """
        passed = self.at(start)
        share = (self.at(end) - passed) / (1 - passed)
        return torch.where(passed < 1, share, 1.0).clamp(0.0, 1.0)


class LinearSchedule(InterpolantSchedule):
    """Every time is as likely."""

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return t."""
        return t

    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1."""
        return torch.ones_like(t)

    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 / (1 - t)."""
        return 1 / (1 - t)

    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return alpha."""
        return alpha


class GeometricSchedule(InterpolantSchedule):
    """The chance of noise, exp(-s), where s falls from one value to another by a constant factor.

    With s(t) = max_val^(1 - t) * min_val^t, `at(t)` is exp(-s(t)), shifted and scaled to run from 0
    to 1 exactly.

    Args:
        min_val: s at time 1, above 0.
        max_val: s at time 0. The two may be given in either order.

    Raises:
        ArgumentError: The values are equal or not above 0.
    """

    def __init__(self, min_val: float = 0.01, max_val: float = 20.0) -> None:
        if not 0 < min(min_val, max_val) < max(min_val, max_val) < math.inf:
            message = (
                f"min_val={min_val!r} and max_val={max_val!r} make no schedule; give two different "
                "numbers above 0"
            )
            raise ArgumentError(message)
        self.min_val, self.max_val = sorted((min_val, max_val))
        self._log_ratio = math.log(self.max_val / self.min_val)
        # exp(-min) - exp(-max), which cancels where both are small.
        self._norm = -math.exp(-self.min_val) * math.expm1(self.min_val - self.max_val)

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the chance."""
        s = self._s(t)
        return -torch.exp(-s) * torch.expm1(s - self.max_val) / self._norm

    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density."""
        s = self._s(t)
        return self._log_ratio * s * torch.exp(-s) / self._norm

    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the hazard."""
        above = torch.expm1((1 - t) * self._log_ratio) * self.min_val  # s - min, without cancelling
        return self._log_ratio * self._s(t) / torch.expm1(above)

    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time."""
        s = -torch.log(math.exp(-self.max_val) + alpha * self._norm)
        return (torch.log(self.max_val / s) / self._log_ratio).clamp(0.0, 1.0)

    def _s(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.max_val * torch.exp(-self._log_ratio * t)


class SinSchedule(InterpolantSchedule):
    """Fast at first: `at(t)` is sin(pi t / 2)."""

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return sin(pi t / 2)."""
        return torch.sin(math.pi / 2 * t)

    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density."""
        return math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the hazard, about 2 / (1 - t) towards 1."""
        return math.pi / 2 / torch.tan(math.pi / 4 * (1 - t))

    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time."""
        return (2 / math.pi * torch.asin(alpha)).clamp(max=1.0)


class CosineSchedule(InterpolantSchedule):
    """Slow at first: `at(t)` is 1 - cos(pi t / 2)."""

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 - cos(pi t / 2)."""
        return 2 * torch.sin(math.pi / 4 * t) ** 2

    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density."""
        return math.pi / 2 * torch.sin(math.pi / 2 * t)

    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the hazard, about 1 / (1 - t) towards 1."""
        return math.pi / 2 / torch.tan(math.pi / 2 * (1 - t))

    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time."""
        return (4 / math.pi * torch.asin(torch.sqrt(alpha / 2))).clamp(max=1.0)


class PolynomialSchedule(InterpolantSchedule):
    """A power: `at(t)` is t^exp.

    Args:
        exp: At least 1; below, the rate at time 0 would be infinite.

    Raises:
        ArgumentError: The exponent is below 1.
    """

    def __init__(self, exp: float = 2.0) -> None:
        if not 1 <= exp < math.inf:
            message = (
                f"exp is {exp!r}; give a number of at least 1, so that the rate at time 0 is finite"
            )
            raise ArgumentError(message)
        self.exp = exp

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return t^exp."""
        return t**self.exp

    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density."""
        return self.exp * t ** (self.exp - 1)

    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the hazard, about 1 / (1 - t) towards 1."""
        return self.derivative_at(t) / -torch.expm1(self.exp * torch.log(t))

    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time."""
        return alpha ** (1 / self.exp)


class FlexMDMNoiseSchedule:
    """The two schedules of a token.

    Args:
        insertion_noise_schedule: When it is inserted, as a mask; linear if None.
        unmasking_noise_schedule: When the mask is lifted, which is not before it is inserted;
            linear if None.
    """

    def __init__(
        self,
        insertion_noise_schedule: InterpolantSchedule | None = None,
        unmasking_noise_schedule: InterpolantSchedule | None = None,
    ) -> None:
        self.insertion_noise_schedule = insertion_noise_schedule or LinearSchedule()
        self.unmasking_noise_schedule = unmasking_noise_schedule or LinearSchedule()


def as_flexmdm_schedule(noise_schedule: object) -> FlexMDMNoiseSchedule:
    """Return what a run is configured with, or the linear schedules if that is nothing.

    Raises:
        ArgumentError: It is a schedule of another family.
    """
    if noise_schedule is None:
        return FlexMDMNoiseSchedule()
    if not isinstance(noise_schedule, FlexMDMNoiseSchedule):
        message = (
            f"{type(noise_schedule).__name__} is no schedule of flexmdm; choose "
            "noise_schedule=flexmdm_linear, or give a FlexMDMNoiseSchedule"
        )
        raise ArgumentError(message)
    return noise_schedule
