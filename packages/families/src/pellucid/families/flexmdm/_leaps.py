"""How many masks are inserted and lifted in a step, while what the network says stands still.

In a step from one time to the next, each missing token comes in with the chance `share`, the
integrated hazard. There are three ways to draw how many do; with ever more steps the first two
become the same process.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pellucid.families.flexmdm._gaps import expected_gaps
from pellucid.families.flexmdm._growing import Growing
from pellucid.xlm.modules import sample_categorical
from pellucid.xlm.sampling import RowStreams, Stream

LEAPS = ("independent", "systematic", "rounded")
"""The ways to draw numbers.

"independent" draws for each slot and each mask alone: tau-leaping. Two slots can both take the one
token that is missing. "systematic" draws for a row how its expected number is rounded, and spreads
that over the slots: each still gets what is expected of it on average, and rows vary least.
"rounded" draws nothing: what rounding leaves over is carried to the next step, so that events come
when one half, one and a half, ... of them were expected.
"""

_UNMASK, _INSERT, _FIT = Stream.FREE, Stream.FREE + 1, Stream.FREE + 2


@dataclass(frozen=True, eq=False)
class Leap:
    """A step in time.

    Attributes:
        way: One of `LEAPS`.
        streams: The random numbers of the rows.
        step: Which step this is.
        insert_share: The chance that a missing token comes in.
        unmask_share: The chance that a mask is lifted.
        insert_carry: What was left over of insertions by the last step, if numbers are rounded.
        unmask_carry: The same of masks to lift.
    """

    way: str
    streams: RowStreams
    step: int
    insert_share: float
    unmask_share: float
    insert_carry: Float64[Tensor, " batch"]
    unmask_carry: Float64[Tensor, " batch"]

    def count_insertions(
        self, texts: Growing, lengths: Float[Tensor, "..."], *, is_distribution: bool
    ) -> Int64[Tensor, "batch pos"]:
        """Return how many masks to insert to the left of each token, no more than there is room.

        Where the numbers drawn exceed the room of a row, those of some slots are taken, in an order
        drawn at random, and the others not.

        Args:
            texts: As they are.
            lengths: What the network says of gaps.
            is_distribution: Whether that is logits of numbers.
        """
        slots = texts.is_slot
        if self.way == "independent":
            counts = torch.zeros_like(texts.ids)
            counts[slots] = self._draw_counts(texts, lengths, is_distribution=is_distribution)
        else:
            said = expected_gaps(lengths.double(), is_distribution=is_distribution)
            expected = (self.insert_share * said).where(slots, 0.0)
            counts = self._round(expected, self.insert_carry, _INSERT)
        keys = texts.index.double()
        if self.way != "rounded":
            keys = self.streams.uniforms(texts.index, step=self.step, stream=_FIT)
        return fit(counts, texts.room, keys)

    def count_unmaskings(self, texts: Growing) -> Int64[Tensor, " batch"]:
        """Return how many masks of each row to lift."""
        is_mask = texts.is_mask
        if self.way == "independent":
            uniforms = self.streams.uniforms(texts.index, step=self.step, stream=_UNMASK)
            return ((uniforms < self.unmask_share) & is_mask).sum(dim=1)
        expected = self.unmask_share * is_mask.double()
        return self._round(expected, self.unmask_carry, _UNMASK).sum(dim=1)

    def _draw_counts(
        self, texts: Growing, lengths: Float[Tensor, "..."], *, is_distribution: bool
    ) -> Int64[Tensor, " picked_pos"]:
        slots = texts.is_slot
        uniforms = self.streams.uniforms(texts.index, step=self.step, stream=_INSERT)[slots]
        said = lengths[slots].double()
        if is_distribution:
            probs = thin(said.softmax(dim=-1), self.insert_share)
            return sample_categorical(probs, uniforms=uniforms)
        mean = expected_gaps(said, is_distribution=False) * self.insert_share
        return poisson(mean, uniforms, most=int(texts.room.max()))

    def _round(
        self,
        expected: Float64[Tensor, "batch pos"],
        carry: Float64[Tensor, " batch"],
        stream: int,
    ) -> Int64[Tensor, "batch pos"]:
        """Round expected numbers so that their sum is rounded, too."""
        start = carry[:, None]
        if self.way == "systematic":
            row = torch.zeros_like(self.streams.rows)[:, None]
            start = self.streams.uniforms(row, step=self.step, stream=stream)
        total = (expected.cumsum(dim=1) + start).floor().long()
        return total.diff(dim=1, prepend=torch.zeros_like(total[:, :1]))


def thin(
    probs: Float64[Tensor, "*shape n_classes"], share: float
) -> Float64[Tensor, "*shape n_classes"]:
    """Return the distribution of how many are kept, if each of a random number is kept alone.

    Args:
        probs: Of the number, from 0.
        share: The chance that one is kept.
    """
    number = torch.arange(probs.shape[-1], device=probs.device, dtype=probs.dtype)
    n_all, n_kept = number[:, None], number
    n_left = (n_all - n_kept).clamp(min=0)
    ways = torch.lgamma(n_all + 1) - torch.lgamma(n_kept + 1) - torch.lgamma(n_left + 1)
    chance = torch.exp(ways) * share**n_kept * (1 - share) ** n_left
    return probs @ chance.where(n_kept <= n_all, 0.0)


def poisson(
    mean: Float64[Tensor, " picked_pos"], uniforms: Float64[Tensor, " picked_pos"], *, most: int
) -> Int64[Tensor, " picked_pos"]:
    """Draw from Poisson distributions by the inverse of their sums; `most` where it is more."""
    low = torch.zeros_like(mean, dtype=torch.long)
    high = torch.full_like(low, most)
    for _ in range(most.bit_length()):
        middle = (low + high) // 2
        is_above = uniforms >= torch.special.gammaincc(middle + 1.0, mean)
        low = torch.where(is_above, (middle + 1).clamp(max=most), low)
        high = torch.where(is_above, high, middle)
    return low


def fit(
    counts: Int64[Tensor, "batch pos"],
    room: Int64[Tensor, " batch"],
    keys: Float64[Tensor, "batch pos"],
) -> Int64[Tensor, "batch pos"]:
    """Return as many of the counts of each row as there is room for, lowest keys first."""
    order = keys.argsort(dim=1, stable=True)
    total = counts.gather(1, order).cumsum(dim=1)
    taken = torch.minimum(total, room[:, None])
    each = taken.diff(dim=1, prepend=torch.zeros_like(taken[:, :1]))
    return torch.zeros_like(counts).scatter(1, order, each)
