"""Which open positions are filled next."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.sampling._counts import CountRule, EvenShare
from pellucid.xlm.sampling._doubts import DOUBTS, doubts_at
from pellucid.xlm.sampling._opening import Opening
from pellucid.xlm.sampling._streams import Stream


@runtime_checkable
class OrderPolicy(Protocol):
    """Chooses positions. `FillOrder` is one; another may look at anything that `Opening` has."""

    def looks_at(self, opening: Opening) -> Bool[Tensor, "batch pos"] | None:
        """Return the open positions whose logits it chooses by.

        None if it chooses without any: then only rows in which something is chosen are read, and
        only the logits of what is chosen are computed.
        """
        ...

    def choose(
        self,
        opening: Opening,
        logits: Float[Tensor, "picked_pos d_vocab"] | None,
        *,
        where: Bool[Tensor, "batch pos"] | None,
    ) -> Bool[Tensor, "batch pos"]:
        """Return the positions to fill now, open ones; a row may have none.

        Args:
            opening: What is open.
            logits: Of the positions in `where`, in reading order, minus infinity for what may not
                be written; None if it looks at none.
            where: What it looks at, and maybe further open positions.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FillOrder:
    """The surest positions first, or in random order; in blocks from left to right, or anywhere.

    Attributes:
        confidence: Fill first where the best token has the highest probability ("top_prob"), or the
            largest margin ("prob_diff"), or where the entropy is lowest ("entropy"); in random
            order if None.
        counts: How many are filled at once.
        block_length: Fill blocks of that many positions from left to right, counted from the first
            open one of each row.
        temperature: Divides logits before confidences are read from them.
        noise: Confidences get this much times a draw from the standard Gumbel distribution; 0 for
            none.
    """

    confidence: str | None = None
    counts: CountRule = field(default_factory=EvenShare)
    block_length: int | None = None
    temperature: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.confidence is not None and self.confidence not in DOUBTS:
            raise UnknownNameError("confidence", self.confidence, DOUBTS)
        if self.block_length is not None and self.block_length <= 0:
            message = f"block_length is {self.block_length!r}; give a positive number"
            raise ArgumentError(message)
        if self.temperature <= 0:
            message = (
                f"the confidences' temperature is {self.temperature!r}; give a positive number"
            )
            raise ArgumentError(message)
        if self.noise < 0:
            message = f"the confidences' noise is {self.noise!r}; give 0 or more"
            raise ArgumentError(message)

    def looks_at(self, opening: Opening) -> Bool[Tensor, "batch pos"] | None:
        """Return the open positions of the present block, if there is a confidence."""
        if self.confidence is None:
            return None
        return opening.in_blocks(self.block_length).is_present

    def choose(
        self,
        opening: Opening,
        logits: Float[Tensor, "picked_pos d_vocab"] | None,
        *,
        where: Bool[Tensor, "batch pos"] | None,
    ) -> Bool[Tensor, "batch pos"]:
        """Return the positions to fill now."""
        present = opening.in_blocks(self.block_length)
        if self.confidence is None or logits is None or where is None:
            doubts = opening.uniforms(Stream.ORDER)
        else:
            doubts = doubts_at(
                where, logits, confidence=self.confidence, temperature=self.temperature
            )
            if self.noise:
                doubts = doubts - self.noise * opening.gumbels(Stream.ORDER)
        counts = self.counts.count(present, doubts)
        return present.is_present & (rank(doubts, present.is_present) < counts[:, None])


def rank(
    doubts: Float[Tensor, "batch pos"], is_open: Bool[Tensor, "batch pos"]
) -> Int64[Tensor, "batch pos"]:
    """Return the place of each position in its row, surest first; the leftmost of equals first.

    Positions that are not open come after all that are.
    """
    order = doubts.masked_fill(~is_open, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
