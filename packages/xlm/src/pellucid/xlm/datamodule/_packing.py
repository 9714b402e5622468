"""Many short texts in rows of one length."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pellucid.core import ArgumentError
from pellucid.xlm._preprocessing import Columns
from pellucid.xlm.datamodule._ragged import flatten_rows


def pack_sequences(
    columns: Columns,
    tokenizer: Any,
    block_size: int,
    *,
    use_bos: bool = False,
    drop_last: bool = True,
    with_segments: bool = False,
) -> dict[str, list[list[int]]]:
    """Join texts end to end, each closed by EOS, and cut the whole into blocks.

    A text may go on in the next block; no token is lost but those of a last block that is not full.

    Args:
        columns: `input_ids` (or `token_ids`), one list per text.
        tokenizer: Gives EOS, and BOS where it is used.
        block_size: Tokens of a block.
        use_bos: Begin each text with BOS.
        drop_last: Leave out a last block that is not full, rather than keep it short.
        with_segments: Give `segment_ids` (which text of its block a token belongs to, from 0) and
            `positions` (of a token in the part of its text that the block holds, from 0) too.

    Returns:
        `input_ids`, one list per block, and what was asked for besides.

    Raises:
        ArgumentError: The block size is not positive, or there are no ids.
    """
    if block_size < 1:
        raise ArgumentError(f"block_size is {block_size!r}; a block holds at least one token")
    stream, text_of = _join(_texts(columns), tokenizer, use_bos=use_bos)
    n_tokens = len(stream) // block_size * block_size if drop_last else len(stream)
    cuts = range(0, n_tokens, block_size)
    packed = {"input_ids": _cut(stream[:n_tokens], cuts, block_size)}
    if with_segments:
        segments, positions = _segments(text_of[:n_tokens], block_size)
        packed["segment_ids"] = _cut(segments, cuts, block_size)
        packed["positions"] = _cut(positions, cuts, block_size)
    return packed


def _texts(columns: Columns) -> Sequence[Sequence[int]]:
    for name in ("input_ids", "token_ids"):
        if name in columns:
            return columns[name]
    raise ArgumentError(f"there are columns {sorted(columns)!r} and no input_ids to pack")


def _join(
    texts: Sequence[Sequence[int]], tokenizer: Any, *, use_bos: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return all tokens, and for each the number of its text."""
    flat, lengths = flatten_rows(texts)
    closed = lengths + 1 + use_bos
    ends = np.cumsum(closed)
    stream = np.full(int(closed.sum()), tokenizer.eos_token_id, dtype=np.int64)
    is_text = np.ones(len(stream), dtype=bool)
    is_text[ends - 1] = False
    if use_bos:
        is_text[ends - closed] = False
        stream[ends - closed] = tokenizer.bos_token_id
    stream[is_text] = flat
    return stream, np.repeat(np.arange(len(texts)), closed)


def _segments(text_of: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return segment and position of every token; a block begins a new segment."""
    at = np.arange(len(text_of))
    begins = np.ones(len(text_of), dtype=bool)
    begins[1:] = text_of[1:] != text_of[:-1]
    begins |= at % block_size == 0
    count = np.cumsum(begins)
    starts = at[begins]
    first_of_block = count[at // block_size * block_size]
    return count - first_of_block, at - starts[count - 1]


def _cut(values: np.ndarray, cuts: range, block_size: int) -> list[list[int]]:
    return [values[cut : cut + block_size].tolist() for cut in cuts]
