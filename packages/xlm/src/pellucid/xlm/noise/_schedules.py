"""Noise schedules in continuous time, from 0 (clean) to 1."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.contracts import NoiseSchedule


class DummyNoiseSchedule(NoiseSchedule):
    """Stands where a family has no schedule; to ask it anything is an error."""

    def noise_rate(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raise.

        Raises:
            RequirementError: Always; so do all other methods.
        """
        raise self._error("noise_rate")

    def total_noise(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raise."""
        raise self._error("total_noise")

    def t_from_noise_rate(self, noise_rate: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raise."""
        raise self._error("t_from_noise_rate")

    def t_from_total_noise(self, total_noise: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raise."""
        raise self._error("t_from_total_noise")

    def sample_t(
        self, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """Raise."""
        raise self._error("sample_t")

    def _error(self, asked: str) -> RequirementError:
        return RequirementError(
            f"{asked} was asked of the dummy noise schedule, which has none; configure the "
            "family's own under noise_schedule"
        )


class ContinuousTime(NoiseSchedule):
    """Draws times that are spread over a batch."""

    def __init__(self, sigma_max: float, *, eps: float, antithetic_sampling: bool) -> None:
        if not 0 < sigma_max < math.inf:
            raise ArgumentError(f"sigma_max is {sigma_max!r}; give a number above 0")
        if not 0 <= eps < 1:
            raise ArgumentError(f"eps is {eps!r}; give the least time, from 0 to below 1")
        self.sigma_max = sigma_max
        self.eps = eps
        self.antithetic_sampling = antithetic_sampling

    def sample_t(
        self, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """Draw one time per row, from `eps` to 1, on the device of the generator.

        With `antithetic_sampling` each row draws from a part of the interval of its own, so that
        every batch covers all of it; rows that are alike should then be in random order.
        """
        if batch_size < 1:
            raise ArgumentError(f"batch_size is {batch_size!r}; a batch has at least one row")
        device = None if generator is None else generator.device
        t = torch.rand(batch_size, generator=generator, device=device)
        if self.antithetic_sampling:
            t = (t + torch.arange(batch_size, device=device)) / batch_size
        return (1 - self.eps) * t + self.eps


class ContinuousTimeLinear(ContinuousTime):
    """Total noise grows from `sigma_min` to `sigma_max` at one rate.

    Args:
        sigma_max: Total noise at time 1, nats.
        sigma_min: Total noise at time 0.
        eps: The least time that `sample_t` draws.
        antithetic_sampling: Spread the times of a batch evenly.
    """

    def __init__(
        self,
        sigma_max: float = 9.2,
        *,
        sigma_min: float = 0.0,
        eps: float = 1e-3,
        antithetic_sampling: bool = True,
    ) -> None:
        super().__init__(sigma_max, eps=eps, antithetic_sampling=antithetic_sampling)
        if not 0 <= sigma_min < sigma_max:
            raise ArgumentError(
                f"sigma_min is {sigma_min!r}; give a number from 0 to below sigma_max {sigma_max!r}"
            )
        self.sigma_min = sigma_min

    def noise_rate(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the derivative of the total noise, the same for every row."""
        return torch.full_like(t, self.sigma_max - self.sigma_min)

    def total_noise(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the total noise."""
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def t_from_noise_rate(self, noise_rate: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raise, since all times have one rate.

        Raises:
            RequirementError: Always.
        """
        raise RequirementError(
            "all times of the linear schedule have one noise rate, so none follows from it; use "
            "t_from_total_noise"
        )

    def t_from_total_noise(self, total_noise: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the time of a total noise."""
        return (total_noise - self.sigma_min) / (self.sigma_max - self.sigma_min)


class ContinuousTimeGeometric(ContinuousTime):
    """Total noise grows from `sigma_min` to `sigma_max` by the same factor in equal times.

    It is sigma_min^(1 - t) sigma_max^t (Song et al. 2021, arXiv:2011.13456).

    Args:
        sigma_max: Total noise at time 1, nats.
        sigma_min: Total noise at time 0, above 0.
        eps: The least time that `sample_t` draws.
        antithetic_sampling: Spread the times of a batch evenly.
    """

    def __init__(
        self,
        sigma_max: float = 9.2,
        *,
        sigma_min: float = 1e-3,
        eps: float = 1e-3,
        antithetic_sampling: bool = True,
    ) -> None:
        super().__init__(sigma_max, eps=eps, antithetic_sampling=antithetic_sampling)
        if not 0 < sigma_min < sigma_max:
            raise ArgumentError(
                f"sigma_min is {sigma_min!r}; give a number above 0 and below sigma_max "
                f"{sigma_max!r}"
            )
        self.sigma_min = sigma_min
        self._log_ratio = math.log(sigma_max / sigma_min)

    def noise_rate(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the derivative of the total noise."""
        return self._log_ratio * self.total_noise(t)

    def total_noise(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the total noise."""
        return self.sigma_min * torch.exp(self._log_ratio * t)

    def t_from_noise_rate(self, noise_rate: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the time of a rate."""
        return self.t_from_total_noise(noise_rate / self._log_ratio)

    def t_from_total_noise(self, total_noise: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the time of a total noise."""
        return torch.log(total_noise / self.sigma_min) / self._log_ratio
