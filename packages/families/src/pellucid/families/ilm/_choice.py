"""Which token is inserted where."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.modules import sample_from_logits
from pellucid.xlm.sampling import RowStreams, Stream, TokenPolicy

Scores = Float[Tensor, "batch slot d_vocab"]
"""Logits of each token at each slot of each row; minus infinity where a row has no more slots."""

STOP_STREAM, SLOT_STREAM = Stream.FREE, Stream.FREE + 1
"""What is drawn for a row in one step, beside its tokens."""


@dataclass(frozen=True, eq=False)
class Insertions:
    """What is inserted into each row, the rightmost first.

    Attributes:
        places: After which positions, none of them twice.
        tokens: What is inserted there.
        is_made: Which of them there are.
    """

    places: Int64[Tensor, "batch k"]
    tokens: Int64[Tensor, "batch k"]
    is_made: Bool[Tensor, "batch k"]


@dataclass(frozen=True, kw_only=True)
class InsertionPolicy:
    """How slots and tokens are drawn.

    Attributes:
        tokens: How tokens are drawn; of slots and tokens together if `slots` is None.
        slots: How slots are drawn, each with what all its tokens sum up to.
        max_insertions: At how many slots of a row a token is inserted at once.
        insertion_ratio: After the first one, only what is at least so probable, measured by the
            most probable of them.
    """

    tokens: TokenPolicy
    slots: TokenPolicy | None = None
    max_insertions: int = 1
    insertion_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.max_insertions < 1:
            message = f"max_insertions is {self.max_insertions!r}; insert at least one token"
            raise ArgumentError(message)
        if not 0 < self.insertion_ratio <= 1:
            message = f"insertion_ratio is {self.insertion_ratio!r}; give a number in (0, 1]"
            raise ArgumentError(message)

    def choose(
        self,
        scores: Scores,
        places: Int64[Tensor, "batch slot"],
        most: Int64[Tensor, " batch"],
        *,
        streams: RowStreams,
        step: int,
    ) -> Insertions:
        """Choose slots and tokens.

        Args:
            scores: Of all slots.
            places: The position of each slot in its text.
            most: The most insertions of each row, at least one.
            streams: Random numbers of the rows.
            step: Which step this is.
        """
        if self.slots is None:
            scores = self.tokens.keep(scores.flatten(1)).view_as(scores)
        slots = self._draw_slot(scores, streams, step)[:, None]
        uniforms = streams.uniforms(places, step=step, stream=Stream.TOKEN)
        if self.max_insertions == 1:
            own = scores.take_along_dim(slots[..., None], dim=1)
            tokens = self._draw_tokens(own, uniforms.gather(1, slots))
            is_made = torch.ones_like(slots, dtype=torch.bool)
        else:
            is_dead = ~scores.isfinite().any(dim=-1, keepdim=True)
            drawn = self._draw_tokens(scores.masked_fill(is_dead, 0), uniforms)
            values = scores.take_along_dim(drawn[..., None], dim=2)[..., 0]
            slots, is_made = self._join(slots, values, most)
            tokens = drawn.gather(1, slots)
        return Insertions(places.gather(1, slots), tokens, is_made)

    def _draw_slot(self, scores: Scores, streams: RowStreams, step: int) -> Int64[Tensor, " batch"]:
        index = torch.zeros_like(streams.rows)
        uniforms = streams.uniforms(index, step=step, stream=SLOT_STREAM)
        if self.slots is not None:
            return self.slots.draw(scores.logsumexp(dim=-1), uniforms)
        if self.tokens.temperature == 0:
            return scores.amax(dim=-1).argmax(dim=-1)
        totals = (scores / self.tokens.temperature).logsumexp(dim=-1)
        return sample_from_logits(totals, uniforms=uniforms)

    def _draw_tokens(
        self, scores: Scores, uniforms: Float[Tensor, "batch slot"]
    ) -> Int64[Tensor, "batch slot"]:
        if self.slots is not None:
            return self.tokens.draw(scores, uniforms)
        # What is not among the best of all slots together is out already.
        return sample_from_logits(scores, temperature=self.tokens.temperature, uniforms=uniforms)

    def _join(
        self,
        first: Int64[Tensor, "batch 1"],
        values: Float[Tensor, "batch slot"],
        most: Int64[Tensor, " batch"],
    ) -> tuple[Int64[Tensor, "batch k"], Bool[Tensor, "batch k"]]:
        """Put to the first slot others whose tokens are nearly as probable as the best."""
        least = values.amax(dim=1, keepdim=True) + math.log(self.insertion_ratio)
        ranked = values.scatter(1, first, torch.inf)
        best, slots = ranked.topk(min(self.max_insertions, values.shape[1]), dim=1)
        ranks = torch.arange(best.shape[1], device=best.device)
        is_made = (best >= least) & (ranks < most[:, None])
        # From right to left, so that none of them moves those to come.
        slots, order = slots.sort(dim=1, descending=True)
        return slots, is_made.gather(1, order)


def spread(
    logits: Float[Tensor, "picked_pos d_vocab"], slots: Bool[Tensor, "batch pos"]
) -> tuple[Scores, Int64[Tensor, "batch slot"]]:
    """Return the logits of each row's slots side by side, and the positions of the slots."""
    n_slots = slots.sum(dim=1, keepdim=True)
    widest = int(n_slots.max())
    is_slot = torch.arange(widest, device=slots.device) < n_slots
    scores = logits.new_full((*is_slot.shape, logits.shape[1]), -torch.inf)
    scores[is_slot] = logits
    return scores, (~slots).long().argsort(dim=1, stable=True)[:, :widest]


def most_missing(length_logits: Float[Tensor, "batch n_classes"]) -> Int64[Tensor, " batch"]:
    """Return how many tokens are missing most probably, at least one; many if nobody counts."""
    if length_logits.shape[1] == 2:
        return length_logits.new_full((len(length_logits),), 1 << 30, dtype=torch.int64)
    return length_logits[:, 1:].argmax(dim=1) + 1
