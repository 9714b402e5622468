"""What is open in the middle of filling."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pellucid.xlm.sampling._streams import RowStreams

_FAR = 1 << 30


@dataclass(frozen=True, eq=False, kw_only=True)
class Opening:
    """What an order policy is asked about: the rows that have open positions.

    Attributes:
        is_open: The positions that are open now; at least one in each row.
        writable: The positions that were open at the beginning.
        index: The place of each position among those that are shown: what it draws by.
        streams: The random numbers of these rows.
        step: Which step this is, from 0.
        steps_left: How many there are at most, this one included. In the last one, all that is
            open is filled, whatever the policy says.
    """

    is_open: Bool[Tensor, "batch pos"]
    writable: Bool[Tensor, "batch pos"]
    index: Int64[Tensor, "batch pos"]
    streams: RowStreams
    step: int
    steps_left: int

    def uniforms(self, stream: int) -> Float64[Tensor, "batch pos"]:
        """Return a number from [0, 1) for each position in this step."""
        return self.streams.uniforms(self.index, step=self.step, stream=stream)

    def gumbels(self, stream: int) -> Float64[Tensor, "batch pos"]:
        """Return a draw from the standard Gumbel distribution for each position in this step."""
        return self.streams.gumbels(self.index, step=self.step, stream=stream)

    def in_blocks(self, block_length: int | None) -> "PresentBlock":
        """Return the first block of each row that is not full.

        Args:
            block_length: Positions of a block; the whole row is one if None.
        """
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        if block_length is None:
            one = torch.ones_like(self.index[:, 0])
            return PresentBlock(**fields, is_present=self.is_open, n_blocks=one)
        blocks = block_numbers(self.writable, block_length)
        present = blocks.masked_fill(~self.is_open, _FAR).amin(dim=1, keepdim=True)
        n_blocks = blocks.masked_fill(~self.is_open, -1).amax(dim=1) - present[:, 0] + 1
        is_present = self.is_open & (blocks == present)
        return PresentBlock(**fields, is_present=is_present, n_blocks=n_blocks)


@dataclass(frozen=True, eq=False, kw_only=True)
class PresentBlock(Opening):
    """The same, and where it may be filled now.

    Attributes:
        is_present: The open positions of the first block of each row that is not full.
        n_blocks: How many blocks there are from this one to the last that is not full.
    """

    is_present: Bool[Tensor, "batch pos"]
    n_blocks: Int64[Tensor, " batch"]


def block_numbers(
    writable: Bool[Tensor, "batch pos"], block_length: int
) -> Int64[Tensor, "batch pos"]:
    """Return the block of each position: 0 before the first writable one, then 1, 2 and so on."""
    first = writable.long().argmax(dim=1, keepdim=True)
    columns = torch.arange(writable.shape[1], device=writable.device)
    numbers = torch.div(columns - first, block_length, rounding_mode="floor") + 1
    return numbers.clamp(min=0)
