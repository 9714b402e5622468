"""Blocks that are filled from left to right, and what a network has to read of them."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.families.dream.types_dream import CachingNetwork, DreamNetwork, KeyValues
from pellucid.xlm.sampling import Reading, Texts, block_numbers


def block_causal_mask(
    blocks: Int64[Tensor, "batch pos"], shown: Bool[Tensor, "batch pos"]
) -> Bool[Tensor, "batch query_pos key_pos"]:
    """Let every token see its own block and those before it."""
    return (blocks[:, None, :] <= blocks[:, :, None]) & shown[:, None, :]


@dataclass
class BlockReader:
    """Reads whole rows, in which no block sees a later one.

    Attributes:
        model: The network.
        texts: As they were at the beginning.
        block_size: Positions of a block.
    """

    model: DreamNetwork
    texts: Texts
    block_size: int
    blocks: Int64[Tensor, "batch pos"] = field(init=False)

    def __post_init__(self) -> None:
        self.blocks = block_numbers(self.texts.is_open, self.block_size)

    def read(self, reading: Reading) -> Float[Tensor, "picked_pos d_vocab"]:
        """Return the logits of the positions that are asked for."""
        pairs = block_causal_mask(self.blocks[reading.rows], reading.shown)
        return self.model(reading.ids, pairs, reading.positions, where=reading.where)


@dataclass
class CachedBlockReader:
    """Reads the same, but the present block alone: keys and values of full blocks are kept.

    That is exact, since nothing that is written later is seen by a full block. Nor is it seen by
    the present one, so what comes after it is not read either.

    Attributes:
        model: The network.
        texts: As they were at the beginning.
        block_size: Positions of a block.
        cache: What is kept of full blocks.
        held: The rows that it is of.
        length: How many columns it is of.
    """

    model: CachingNetwork
    texts: Texts
    block_size: int
    blocks: Int64[Tensor, "batch pos"] = field(init=False)
    cache: KeyValues | None = None
    held: Int64[Tensor, " kept"] | None = None
    length: int = 0

    def __post_init__(self) -> None:
        self.blocks = block_numbers(self.texts.is_open, self.block_size)

    def read(self, reading: Reading) -> Float[Tensor, "picked_pos d_vocab"]:
        """Return the logits of the positions that are asked for."""
        self._keep(reading.rows)
        blocks = self.blocks[reading.rows]
        begin, end = self.length, self._end(blocks, reading.where)
        pairs = block_causal_mask(blocks[:, :end], reading.shown[:, :end])
        logits, cache = self.model.extend(
            reading.ids[:, begin:end],
            pairs[:, begin:],
            reading.positions[:, begin:end],
            where=reading.where[:, begin:end],
            cache=self.cache,
        )
        self._hold(cache, self._n_full(blocks, reading), n_read=end)
        return logits

    def _keep(self, rows: Int64[Tensor, " kept"]) -> None:
        """Forget rows that are not read; all, if one is that is not held."""
        held, self.held = self.held, rows
        if held is None or self.cache is None:
            return
        if not bool(torch.isin(rows, held).all()):
            self.cache, self.length = None, 0
        elif len(rows) < len(held):
            self.cache.batch_select_indices(torch.searchsorted(held, rows))

    def _end(self, blocks: Int64[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]) -> int:
        """Return the column after the last block in which something is asked for."""
        last = blocks.masked_fill(~where, 0).amax(dim=1, keepdim=True)
        return int((blocks <= last).any(dim=0).sum())

    def _n_full(self, blocks: Int64[Tensor, "batch pos"], reading: Reading) -> int:
        """Return how many columns stand in full blocks of all rows."""
        is_open = self.texts.is_open[reading.rows] & (reading.ids == self.texts.mask_id)
        far = blocks.amax() + 1
        present = torch.where(is_open, blocks, far).amin(dim=1, keepdim=True)
        return int((blocks < present).all(dim=0).sum())

    def _hold(self, cache: KeyValues, n_full: int, *, n_read: int) -> None:
        # The logits of a block's first position are read from the token before it, again each time.
        self.length = max(0, n_full - self.model.is_shifted)
        self.cache = cache if self.length else None
        if self.length and n_read > self.length:
            cache.crop(self.length - n_read)
