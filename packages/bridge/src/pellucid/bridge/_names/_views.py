"""Where an activation stands inside the tensor that a module takes or gives.

A view reads its part of a tensor and puts a changed part back; what is around stays. Reading copies
nothing where torch can help it.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class View(Protocol):
    """A part of a tensor's last axis, in the shape that its users see."""

    def get(self, whole: Tensor) -> Tensor:
        """Return the part."""
        ...

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with the part replaced; the given tensor stays as it is."""
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """All of it, as it is."""

    def get(self, whole: Tensor) -> Tensor:
        """Return the tensor itself."""
        return whole

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the part."""
        return part


@dataclasses.dataclass(frozen=True)
class Heads:
    """All of it, the last axis split into heads: (..., d) as (..., head, d_head)."""

    n_heads: int

    def get(self, whole: Tensor) -> Tensor:
        """Return the tensor by head."""
        return whole.unflatten(-1, (self.n_heads, -1))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the heads side by side."""
        return part.reshape(whole.shape)


@dataclasses.dataclass(frozen=True)
class Span:
    """Entries from `start` to before `stop`, by head if their number is given.

    Fused projections that put queries, keys and values one after another: GPT-2, Phi-3, MPT.
    """

    start: int
    stop: int
    n_heads: int | None = None

    def get(self, whole: Tensor) -> Tensor:
        """Return the span."""
        part = whole[..., self.start : self.stop]
        return part if self.n_heads is None else part.unflatten(-1, (self.n_heads, -1))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with this span replaced."""
        made = whole.clone()
        made[..., self.start : self.stop] = part if self.n_heads is None else part.flatten(-2)
        return made


@dataclasses.dataclass(frozen=True)
class Interleaved:
    """Slots from `start` to before `stop` of each group, by head.

    The last axis is `n_groups` groups of `n_slots` slots. GPT-NeoX and Bloom: a group is a head,
    its slots are query, key and value. Falcon: a group is a key head, its slots are the queries
    that share it, its key and its value. CodeGen: a group is a partition of the weights.
    """

    n_groups: int
    n_slots: int
    start: int
    stop: int
    n_heads: int

    def get(self, whole: Tensor) -> Tensor:
        """Return the slots' contents."""
        slots = whole.unflatten(-1, (self.n_groups, self.n_slots, -1))
        if self.stop - self.start == 1 and self.n_heads == self.n_groups:
            # One slot is one head: nothing need be copied, whatever the strides.
            return slots[..., self.start, :]
        part = slots[..., self.start : self.stop, :]
        return part.flatten(-3).unflatten(-1, (self.n_heads, -1))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with these slots replaced."""
        made = whole.clone(memory_format=torch.contiguous_format)
        slots = made.unflatten(-1, (self.n_groups, self.n_slots, -1))
        width = self.stop - self.start
        slots[..., self.start : self.stop, :] = part.flatten(-2).unflatten(
            -1, (self.n_groups, width, -1)
        )
        return made


@dataclasses.dataclass(frozen=True)
class Alternating:
    """Every second entry of the last axis, from `start`: a gate and what it gates, interleaved."""

    start: int

    def get(self, whole: Tensor) -> Tensor:
        """Return every second entry."""
        return whole[..., self.start :: 2]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with these entries replaced."""
        made = whole.clone(memory_format=torch.contiguous_format)
        made[..., self.start :: 2] = part
        return made


@dataclasses.dataclass(frozen=True)
class Leading:
    """The first `n` entries of the last axis: the keys of a pattern that also has a sink."""

    n: int

    def get(self, whole: Tensor) -> Tensor:
        """Return the first entries."""
        return whole[..., : self.n]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with its first entries replaced."""
        made = whole.clone()
        made[..., : self.n] = part
        return made


@dataclasses.dataclass(frozen=True)
class HeadSpan:
    """Entries from `start` to before `stop` of every head.

    Projections of a latent, which make each head's key and value at once: DeepSeek.
    """

    n_heads: int
    start: int
    stop: int

    def get(self, whole: Tensor) -> Tensor:
        """Return the span of every head."""
        return whole.unflatten(-1, (self.n_heads, -1))[..., self.start : self.stop]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with this span replaced."""
        made = whole.clone(memory_format=torch.contiguous_format)
        made.unflatten(-1, (self.n_heads, -1))[..., self.start : self.stop] = part
        return made


@dataclasses.dataclass(frozen=True)
class HeadsFirst:
    """All of it, with heads before positions: (batch, head, pos, ...) as (batch, pos, head, ...).

    Norms of queries and keys that come after the transposition: Gemma 3.
    """

    def get(self, whole: Tensor) -> Tensor:
        """Return positions first."""
        return whole.transpose(1, 2)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return heads first."""
        return part.transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class Latent:
    """What a latent is projected to, without the axis of one that it may have for heads: DeepSeek.

    Attributes:
        view: Of the rest.
    """

    view: View

    def get(self, whole: Tensor) -> Tensor:
        """Return the part of (batch, pos, width)."""
        return self.view.get(whole.squeeze(1) if whole.ndim == 4 else whole)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole, with the axis where it was."""
        inner = whole.squeeze(1) if whole.ndim == 4 else whole
        return self.view.put(inner, part).view_as(whole)


@dataclasses.dataclass(frozen=True)
class Positions:
    """What stands for each position, with an axis for samples if it has none: Marian."""

    def get(self, whole: Tensor) -> Tensor:
        """Return it as (1, pos, d_model), or as it is."""
        return whole[None] if whole.ndim == 2 else whole

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return it in the shape that it had."""
        return part.reshape(whole.shape)
