"""Random numbers that follow from what they are for, not from what was drawn before them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

_WORD = 1 << 64
_SEED_LIMIT = 1 << 62


@dataclass(frozen=True, eq=False)
class RowStreams:
    """The random numbers of each row of a batch.

    A number is a hash of its address: the seed, the row's number in its dataset, the step of the
    sampler, a stream, and an index such as the position within the text. So what a row draws
    depends neither on the rows beside it, nor on padding, nor on which rows have left the batch,
    and any number can be had without those before it (a counter-based generator, as in Salmon et
    al. 2011; the mixer is that of splitmix64, Steele et al. 2014).

    Attributes:
        seed: Of the whole dataset; of it, the lowest 64 bits count.
        rows: The number of each row, the same in whatever batch the row stands.
    """

    seed: int
    rows: Int64[Tensor, " batch"]

    @classmethod
    def of(cls, batch: Mapping[str, Any], generator: torch.Generator | None) -> "RowStreams":
        """Return the streams of a prediction batch.

        Args:
            batch: With `input_ids`. Rows are numbered by its `row_ids`, (batch,), which the loaders
                of the data module give; from 0 if it has none. Its `row_seed` is the seed, which
                the harness gives: it is the same in all batches of a loader.
            generator: One number is drawn from it for a seed if the batch has none, so that two
                calls differ; the seed is 0 if there is no generator either.
        """
        ids = batch["input_ids"]
        rows = batch.get("row_ids")
        if rows is None:
            rows = torch.arange(len(ids), device=ids.device)
        seed = batch.get("row_seed")
        if seed is None:
            seed = 0 if generator is None else _draw_seed(generator)
        return cls(int(seed), rows.to(ids.device, torch.int64))

    def uniforms(
        self,
        index: Int64[Tensor, "batch *shape"],
        *,
        step: int | Int64[Tensor, " batch"] = 0,
        stream: int = 0,
    ) -> Float64[Tensor, "batch *shape"]:
        """Return a number from [0, 1) for each index, all independent.

        Args:
            index: What each number is for, such as the position of a token within its text (not
                its column, which changes with padding).
            step: Of the sampler; one for all rows, or each row's own.
            stream: Tells apart what is drawn for one index in one step: see `Stream`.
        """
        bits = self._bits(index, step, stream)
        # The upper 53 bits, as many as a double's fraction has.
        return _shift(bits, 11).double() * 2.0**-53

    def gumbels(
        self,
        index: Int64[Tensor, "batch *shape"],
        *,
        step: int | Int64[Tensor, " batch"] = 0,
        stream: int = 0,
    ) -> Float64[Tensor, "batch *shape"]:
        """Return a draw from the standard Gumbel distribution for each index, as `uniforms` does.

        Added to the logarithms of weights, the largest is a draw by weight, and the k largest are
        k draws without replacement.
        """
        uniforms = self.uniforms(index, step=step, stream=stream)
        tiny = torch.finfo(torch.float64).tiny
        return -(-uniforms.clamp(min=tiny).log()).log()

    def keep(self, kept: Bool[Tensor, " batch"] | Int64[Tensor, " kept"]) -> "RowStreams":
        """Return the streams of some rows, given by a mask or by their places in the batch."""
        return RowStreams(self.seed, self.rows[kept])

    def _bits(
        self,
        index: Int64[Tensor, "batch *shape"],
        step: int | Int64[Tensor, " batch"],
        stream: int,
    ) -> Int64[Tensor, "batch *shape"]:
        state = _mix(torch.full_like(self.rows, _signed(self.seed)))
        for part in (self.rows, step, stream):
            state = _absorb(state, part)
        return _absorb(state.reshape(-1, *[1] * (index.ndim - 1)), index)


class Stream:
    """What the loop of `fill` draws for one position in one step; others begin at `FREE`."""

    TOKEN = 0
    ORDER = 1
    COUNT = 2
    FREE = 8


def _draw_seed(generator: torch.Generator) -> int:
    drawn = torch.randint(_SEED_LIMIT, (1,), generator=generator, device=generator.device)
    return int(drawn)


def _signed(number: int) -> int:
    """Return the integer of 64 bits with sign that has the same lowest bits."""
    number %= _WORD
    return number - _WORD if number >= _WORD // 2 else number


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _absorb(
    state: Int64[Tensor, "*shape"], part: Int64[Tensor, "..."] | int
) -> Int64[Tensor, "..."]:
    """Return a state that also depends on a part of the address."""
    if isinstance(part, int):
        return _mix(state + _signed((part + 1) * _STEP))
    return _mix(state + (part + 1) * _STEP)


def _mix(bits: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Permute the integers of 64 bits so that every bit depends on every other."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: Int64[Tensor, "*shape"], by: int) -> Int64[Tensor, "*shape"]:
    """Shift to the right and fill with zeros, which torch does only for unsigned integers."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
