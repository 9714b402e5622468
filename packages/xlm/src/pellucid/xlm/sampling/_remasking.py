"""Taking back tokens that were written with little confidence."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.sampling._order import rank


@dataclass(frozen=True, kw_only=True)
class Remasking:
    """After each step but the last, mask the tokens again that the network was least sure of.

    Only what was written in earlier steps is masked again, least probable first, by the probability
    that each token had when it was written; never what was given. This is remasking by confidence
    (Wang et al. 2025, arXiv:2503.00307), without its random choice.

    Attributes:
        count: The most tokens of a row that are masked again after a step.
        budget: The most of a row in all.
        below: Only tokens that had a lower probability than this.
    """

    count: int = 1
    budget: int = 8
    below: float = 1.0

    def __post_init__(self) -> None:
        for name in ("count", "budget"):
            if getattr(self, name) < 1:
                message = f"{name} is {getattr(self, name)!r}; give 1 or more, or no remasking"
                raise ArgumentError(message)
        if not 0 < self.below <= 1:
            raise ArgumentError(f"below is {self.below!r}; give a probability above 0")

    def choose(
        self,
        chances: Float64[Tensor, "batch pos"],
        is_written: Bool[Tensor, "batch pos"],
        n_before: Int64[Tensor, " batch"],
    ) -> Bool[Tensor, "batch pos"]:
        """Return the positions to mask again.

        Args:
            chances: The probability of each token when it was written.
            is_written: What may be masked again.
            n_before: How many of each row have been masked again already.
        """
        is_unsure = is_written & (chances < self.below)
        most = (self.budget - n_before).clamp(min=0, max=self.count)
        chosen = rank(chances, is_unsure) < most[:, None]
        return torch.logical_and(is_unsure, chosen)
