"""The reverse process: when masks are filled."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.xlm.contracts import NoiseSchedule


@dataclass(frozen=True)
class ReverseTimes:
    """Equal steps from time 1 to time 0.

    Attributes:
        total_noise: At the beginning of each step, and at time 0; one more than there are steps.
        shares: The share of tokens that is masked at these times.
    """

    total_noise: Sequence[float]
    shares: Sequence[float]

    @classmethod
    def of(cls, schedule: NoiseSchedule, n_steps: int) -> "ReverseTimes":
        """Return the times of a schedule."""
        t = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64)
        total = schedule.total_noise(t)
        return cls(total.tolist(), (-torch.expm1(-total)).tolist())

    def chance(self, step: int) -> float:
        """Return the probability that a mask is filled in a step.

        A token that is masked at time t was so at the earlier time s with the probability c_s /
        c_t, where c is the share of masks; the posterior does not depend on anything else.
        """
        return 1 - self.shares[step + 1] / self.shares[step]


def likely_noise(
    n_masks: Int64[Tensor, " batch"], n_tokens: Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return the total noise under which as many of some tokens are masked, nats.

    Its share of masks, k / (n + 1) for k of n, is the mean of what `mask_a_number` draws with them.
    """
    return -torch.log1p(-n_masks / (n_tokens + 1))
