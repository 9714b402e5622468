"""Noise schedules that are defined by the share of tokens that is masked at each time."""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.noise._schedules import ContinuousTime


class _MaskedShare(ContinuousTime):
    """With a = 1 - exp(-sigma_max), a share a g(t) is masked, where g grows from 0 to 1.

    Args:
        sigma_max: Total noise at time 1, nats; at 9.2 all but one token in 10,000 are masked.
        eps: The least time that `sample_t` draws.
        antithetic_sampling: Spread the times of a batch evenly.
    """

    def __init__(
        self, sigma_max: float = 9.2, *, eps: float = 1e-3, antithetic_sampling: bool = True
    ) -> None:
        super().__init__(sigma_max, eps=eps, antithetic_sampling=antithetic_sampling)
        self._a = -math.expm1(-sigma_max)

    @abstractmethod
    def _growth(
        self, t: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return g, 1 - g without cancellation, and the derivative of g."""

    @abstractmethod
    def _time_of(
        self, growth: Float[Tensor, " batch"], rest: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the time of a value of g, of which 1 - g is given too."""

    def noise_rate(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the derivative of the total noise."""
        growth, rest, slope = self._growth(t)
        return self._a * slope / self._clean(growth, rest)

    def total_noise(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the total noise, 0 at time 0."""
        growth, rest, _ = self._growth(t)
        # Each form is exact where the other one cancels.
        late = -torch.log(self._clean(growth, rest))
        return torch.where(growth < 0.5, -torch.log1p(-self._a * growth), late)

    def t_from_noise_rate(self, noise_rate: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raise, since no formula gives the time of a rate.

        Raises:
            RequirementError: Always, unless the schedule is log-linear.
        """
        raise RequirementError(
            f"the time of a noise rate has no closed form for {type(self).__name__}; use "
            "t_from_total_noise"
        )

    def t_from_total_noise(self, total_noise: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the time of a total noise."""
        growth = -torch.expm1(-total_noise) / self._a
        rest = (torch.exp(-total_noise) - math.exp(-self.sigma_max)) / self._a
        return self._time_of(growth, rest.clamp(min=0))

    def _clean(
        self, growth: Float[Tensor, " batch"], rest: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return 1 - a g; in this form it stays above 0 however near a is to 1."""
        return rest + growth * math.exp(-self.sigma_max)


class ContinuousTimeLogLinear(_MaskedShare):
    """The schedule of MDLM, under which the share of masked tokens grows in proportion to time.

    The total noise is -log(1 - a t), and a share a t is masked (Sahoo et al. 2024, arXiv
    2406.07524), where a = 1 - exp(-sigma_max).

    Args:
        sigma_max: Total noise at time 1, nats; at 9.2 all but one token in 10,000 are masked.
        eps: The least time that `sample_t` draws.
        antithetic_sampling: Spread the times of a batch evenly.
    """

    def t_from_noise_rate(self, noise_rate: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the time of a rate."""
        return 1 / self._a - 1 / noise_rate

    def _growth(
        self, t: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        return t, 1 - t, torch.ones_like(t)

    def _time_of(
        self, growth: Float[Tensor, " batch"], rest: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        del rest
        return growth


class ContinuousTimeCosine(_MaskedShare):
    """Masks come fast at first and then ever slower: a share a sin(pi t / 2) is masked.

    Read backwards, a sampler in equal steps writes few tokens at first, when it knows least (Shi et
    al. 2024, arXiv:2406.04329; a = 1 - exp(-sigma_max)).

    Args:
        sigma_max: Total noise at time 1, nats; at 9.2 all but one token in 10,000 are masked.
        eps: The least time that `sample_t` draws.
        antithetic_sampling: Spread the times of a batch evenly.
    """

    def _growth(
        self, t: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        angle = t * (math.pi / 2)
        rest = 2 * torch.sin((1 - t) * (math.pi / 4)).square()
        return torch.sin(angle), rest, torch.cos(angle).clamp(min=0) * (math.pi / 2)

    def _time_of(
        self, growth: Float[Tensor, " batch"], rest: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        early = torch.asin(growth.clamp(max=1)) * (2 / math.pi)
        late = 1 - torch.asin(torch.sqrt(rest / 2)) * (4 / math.pi)
        return torch.where(growth < 0.5, early, late)


class ContinuousTimePolynomial(_MaskedShare):
    """A share a t^exponent is masked, where a = 1 - exp(-sigma_max).

    At exponent 1 it is the log-linear schedule; above it, noise comes late, so that much of a
    sampler's time goes to texts that are nearly clean.

    Args:
        sigma_max: Total noise at time 1, nats; at 9.2 all but one token in 10,000 are masked.
        exponent: At least 1, so that the rate is finite at time 0.
        eps: The least time that `sample_t` draws.
        antithetic_sampling: Spread the times of a batch evenly.

    Raises:
        ArgumentError: The exponent is below 1 or not finite.
    """

    def __init__(
        self,
        sigma_max: float = 9.2,
        *,
        exponent: float = 2.0,
        eps: float = 1e-3,
        antithetic_sampling: bool = True,
    ) -> None:
        super().__init__(sigma_max, eps=eps, antithetic_sampling=antithetic_sampling)
        if not 1 <= exponent < math.inf:
            raise ArgumentError(f"exponent is {exponent!r}; give a number of at least 1")
        self.exponent = exponent

    def _growth(
        self, t: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        growth = t**self.exponent
        return growth, 1 - growth, self.exponent * t ** (self.exponent - 1)

    def _time_of(
        self, growth: Float[Tensor, " batch"], rest: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        del rest
        return growth ** (1 / self.exponent)
