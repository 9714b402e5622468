"""How many positions are filled at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.sampling._opening import PresentBlock
from pellucid.xlm.sampling._streams import Stream

THRESHOLD_RULES = ("error", "dependence")


@runtime_checkable
class CountRule(Protocol):
    """Says how many positions of a block are filled now."""

    def count(
        self, present: PresentBlock, doubts: Float64[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return a number for each row.

        Args:
            present: What is open.
            doubts: How unsure the network is of each position; those with the least are filled.
        """
        ...


@dataclass(frozen=True)
class EvenShare:
    """Share what is open out over the steps that are left, rounded up, so that none is empty.

    Steps are given to blocks by how much is open in them, at least one to each block to come. A
    row that has fewer open positions than steps fills one in each of its own.
    """

    def count(
        self, present: PresentBlock, doubts: Float64[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return the share of this step."""
        del doubts
        return share_of_steps(
            present.is_open.sum(dim=1),
            present.is_present.sum(dim=1),
            present.n_blocks,
            present.steps_left,
        )


@dataclass(frozen=True)
class FixedCount:
    """Fill as many in each step, and what is left in the last one.

    Attributes:
        number: How many.
    """

    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ArgumentError(f"number is {self.number!r}; fill at least one in each step")

    def count(
        self, present: PresentBlock, doubts: Float64[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return that number."""
        del doubts
        return torch.full_like(present.n_blocks, self.number)


@dataclass(frozen=True)
class DoubtLimit:
    """Fill as many of the surest as keep the sum of their doubts below a limit, at least one.

    Attributes:
        threshold: The limit.
        rule: "error" sums the doubts of all that are filled at once: where a doubt is the chance
            that a token is wrong, that bounds the chance that any of them is. "dependence" leaves
            the largest out, as published (Ben-Hamu et al. 2025, arXiv:2505.24857): where doubts are
            entropies, the rest bounds what is lost by drawing the tokens independently, but one
            that is a guess may be taken along with sure ones.
    """

    threshold: float
    rule: str = "error"

    def __post_init__(self) -> None:
        if self.rule not in THRESHOLD_RULES:
            raise UnknownNameError("threshold rule", self.rule, THRESHOLD_RULES)

    def count(
        self, present: PresentBlock, doubts: Float64[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return how many stay below."""
        return count_within(
            doubts, present.is_present, self.threshold, spares_largest=self.rule == "dependence"
        )


@dataclass(frozen=True)
class Chance:
    """Fill each open position with a probability that follows from the step, maybe none.

    This is ancestral sampling of an absorbing process, where the probability is
    (alpha_s - alpha_t) / (1 - alpha_t) for a step from time t to s.

    Attributes:
        of_step: The probability in each step, from 0 on.
    """

    of_step: Callable[[int], float]

    def count(
        self, present: PresentBlock, doubts: Float64[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Draw a number from the binomial distribution, one trial for each position."""
        del doubts
        is_filled = present.uniforms(Stream.COUNT) < self.of_step(present.step)
        return (is_filled & present.is_present).sum(dim=1)


def count_within(
    doubts: Float[Tensor, "batch pos"],
    is_open: Bool[Tensor, "batch pos"],
    threshold: float,
    *,
    spares_largest: bool,
) -> Int64[Tensor, " batch"]:
    """Return how many of the surest positions have doubts whose sum is below a threshold.

    Args:
        doubts: How unsure the network is of each position.
        is_open: Which positions there are to fill.
        threshold: What the sum stays below; one position is filled in any case.
        spares_largest: Leave the largest doubt of those that are filled out of the sum.
    """
    ordered = doubts.masked_fill(~is_open, torch.inf).sort(dim=1, stable=True).values
    total = ordered.cumsum(dim=1)
    is_taken = ((total - ordered if spares_largest else total) < threshold) & ordered.isfinite()
    return is_taken.long().cumprod(dim=1).sum(dim=1).clamp(min=1)


def share_of_steps(
    n_open: Int64[Tensor, " batch"],
    n_open_in_block: Int64[Tensor, " batch"],
    n_blocks: Int64[Tensor, " batch"],
    steps_left: int,
) -> Int64[Tensor, " batch"]:
    """Return how many positions of the present block to fill now, so that no step is empty.

    Args:
        n_open: Open positions of each row.
        n_open_in_block: Those of them in the block that is filled now.
        n_blocks: Blocks that are not full.
        steps_left: Steps for all of them.
    """
    own = steps_left * n_open_in_block // n_open.clamp(min=1)
    most = (steps_left - n_blocks + 1).clamp(min=1)
    own = torch.minimum(own.clamp(min=1), most)
    return (n_open_in_block + own - 1) // own
