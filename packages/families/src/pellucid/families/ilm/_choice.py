"""Which token is inserted where."""

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
        insertion_threshold: Insert at once as much as keeps the sum of doubts below it, and at
            least one token: that sum bounds the chance that any of them is wrong.
    """

    tokens: TokenPolicy
    slots: TokenPolicy | None = None
    max_insertions: int = 1
    insertion_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_insertions", "insertion_threshold"):
            if getattr(self, name) <= 0:
                message = f"{name} is {getattr(self, name)!r}; give a positive number"
                raise ArgumentError(message)

    def choose(
        self,
        scores: Scores,
        places: Int64[Tensor, "batch slot"],
        *,
        room: Int64[Tensor, " batch"],
        missing: Float[Tensor, " batch"] | None,
        streams: RowStreams,
        step: int,
    ) -> Insertions:
        """Choose slots and tokens.

        Args:
            scores: Of all slots.
            places: The position of each slot in its text.
            room: How many tokens each row may still grow by, at least one.
            missing: How many tokens are missing in each row; read if there may be several
                insertions.
            streams: Random numbers of the rows.
            step: Which step this is.
        """
        is_joint = self.slots is None
        kept = self.tokens.keep(scores.flatten(1)).view_as(scores) if is_joint else scores
        slots = self._draw_slot(kept, streams, step)[:, None]
        uniforms = streams.uniforms(places, step=step, stream=Stream.TOKEN)
        if self.max_insertions == 1 or missing is None:
            own = kept.take_along_dim(slots[..., None], dim=1)
            tokens = self._draw_tokens(own, uniforms.gather(1, slots))
            is_made = torch.ones_like(slots, dtype=torch.bool)
        else:
            is_out = ~kept.isfinite().any(dim=-1, keepdim=True)
            drawn = self._draw_tokens(kept.masked_fill(is_out, 0), uniforms)
            doubts = doubts_of(scores, drawn, missing).masked_fill(is_out[..., 0], torch.inf)
            slots, is_made = self._join(slots, doubts, room)
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
        doubts: Float[Tensor, "batch slot"],
        room: Int64[Tensor, " batch"],
    ) -> tuple[Int64[Tensor, "batch k"], Bool[Tensor, "batch k"]]:
        """Put to the slot that was drawn others, surest first."""
        n_slots = min(self.max_insertions, doubts.shape[1])
        slots = doubts.scatter(1, first, -torch.inf).argsort(dim=1, stable=True)[:, :n_slots]
        ranks = torch.arange(n_slots, device=slots.device)
        is_sure = doubts.gather(1, slots).cumsum(dim=1) < self.insertion_threshold
        is_made = (ranks == 0) | (is_sure & (ranks < room[:, None]))
        # From right to left, so that none of them moves those to come.
        slots, order = slots.sort(dim=1, descending=True)
        return slots, is_made.gather(1, order)


def doubts_of(
    scores: Scores, tokens: Int64[Tensor, "batch slot"], missing: Float[Tensor, " batch"]
) -> Float[Tensor, "batch slot"]:
    """Return the probability, for each slot, that its token is not missing there.

    An insertion is one of the tokens that are missing, drawn at random: its probability is the
    share that it has of them, and times their number it is how often it is missing, which is the
    probability that it is where no gap lacks a token twice. Without that number, two places for one
    token look like two tokens for two places.

    Args:
        scores: Of all slots.
        tokens: One for each slot.
        missing: How many tokens are missing in each row.
    """
    totals = scores.flatten(1).logsumexp(dim=1)[:, None]
    shares = (scores.take_along_dim(tokens[..., None], dim=2)[..., 0] - totals).exp()
    return 1 - (shares * missing[:, None]).clamp(max=1)


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
