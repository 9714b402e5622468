"""Batches of prompts of different lengths, and target responses as token ids."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import ArgumentError, ContainerError, Targets
from pellucid.hf._codec import TextCodec


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Rows of token ids, padded to one length.

    Attributes:
        input_ids: Int64, of shape (batch, pos).
        mask: 1 where there is a token, int64, of the same shape; None if nothing is padded.
        n_tokens: How many tokens there are, padding not counted.
    """

    input_ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    n_tokens: int


def pad_rows(
    rows: Sequence[Sequence[int]],
    *,
    side: Literal["left", "right"],
    pad_id: int,
    device: torch.device,
    max_positions: int | None,
) -> PromptBatch:
    """Put rows of token ids into one tensor.

    Raises:
        ArgumentError: (a ValueError) If there is no row, if one is empty, or if one is longer than
            `max_positions`.
    """
    lengths = [len(row) for row in rows]
    if not rows or not all(lengths):
        raise ArgumentError(
            f"every text must have at least one token, got {lengths!r} tokens. "
            "Leave empty texts out."
        )
    longest = max(lengths)
    if max_positions is not None and longest > max_positions:
        raise ArgumentError(
            f"an input takes {longest} positions, the model has {max_positions}. Shorten it."
        )
    padded = [_fill(list(row), pad_id, longest, side) for row in rows]
    is_padded = min(lengths) < longest
    mask = [_fill([1] * n, 0, longest, side) for n in lengths] if is_padded else None
    return PromptBatch(
        input_ids=torch.tensor(padded, dtype=torch.int64, device=device),
        mask=None if mask is None else torch.tensor(mask, dtype=torch.int64, device=device),
        n_tokens=sum(lengths),
    )


def encode_targets(codec: TextCodec, targets: Targets | None, n_ids: int) -> Targets | None:
    """Return a copy of targets with the token ids of the responses; ids that are given are kept.

    Args:
        codec: Encodes the responses, without special tokens.
        targets: What the caller gave.
        n_ids: How many token ids the model embeds.

    Raises:
        ArgumentError: (a ValueError) If a response has no tokens.
        ContainerError: (a ValueError) If a given id is beyond the vocabulary.
    """
    if targets is None:
        return None
    if targets.target_response_toks is not None:
        for row in targets.target_response_toks:
            _check_row(row, n_ids)
        return targets
    if targets.target_response_strs is None:
        return targets
    rows = codec.encode(targets.target_response_strs)
    for text, row in zip(targets.target_response_strs, rows, strict=True):
        if not row:
            raise ArgumentError(
                f"the target response {text!r} has no tokens. Give a text that has at least one."
            )
    return targets.replace(target_response_toks=[torch.tensor(row) for row in rows])


def _fill(row: list[int], filler: int, length: int, side: str) -> list[int]:
    filling = [filler] * (length - len(row))
    return filling + row if side == "left" else row + filling


def _check_row(row: Tensor, n_ids: int) -> None:
    if not len(row):
        raise ArgumentError("a row of target_response_toks is empty. Give at least one token.")
    if int(row.max()) >= n_ids:
        raise ContainerError(
            f"target_response_toks hold id {int(row.max())}, the model embeds 0 to {n_ids - 1}."
        )
