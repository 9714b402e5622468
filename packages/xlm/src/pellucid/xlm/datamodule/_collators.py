"""Collators that belong to no family: stack, pad to the block, pad to the longest row."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule._examples import BaseBatch
from pellucid.xlm.datamodule._padding import is_token_mask, pad_rows
from pellucid.xlm.datamodule._ragged import Ragged
from pellucid.xlm.datamodule._table import Selection

PADDING_TYPE = 2
"""The token type of padding."""


class DefaultCollator(Collator):
    """Stacks rows that all have the block's length, such as packed ones.

    Args:
        tokenizer: Whose padding token fills short rows.
        block_size: The length of every row.
        noise_schedule: Held for the family's own collators; not read here.
    """

    def __init__(
        self, tokenizer: Any, block_size: int | None = None, noise_schedule: Any = None
    ) -> None:
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.noise_schedule = noise_schedule

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> BaseBatch:
        """Collate rows of equal length.

        Raises:
            ArgumentError: A row has another length than the block, or than the first row.
        """
        rows = _rows(examples)
        lengths = rows.lengths
        width = int(lengths[0]) if self.block_size is None else self.block_size
        others = (lengths != width).nonzero()[0]
        if len(others):
            row = int(others[0])
            raise ArgumentError(
                f"row {row} has {lengths[row]} tokens and should have {width}; pack the data "
                "(pack_sequences), or use DefaultCollatorWithPadding"
            )
        return self._pad(rows, width)

    def _pad(self, rows: Ragged, width: int) -> BaseBatch:
        pad = self.tokenizer.pad_token_id
        if pad is None:
            raise RequirementError(
                f"{type(self.tokenizer).__name__} has no padding token; give it a pad_token"
            )
        input_ids, lengths = pad_rows(rows, width, pad=pad)
        is_token = is_token_mask(lengths, width)
        return {
            "input_ids": input_ids,
            "attention_mask": is_token.long(),
            "token_type_ids": torch.where(is_token, 0, PADDING_TYPE),
        }


class DefaultCollatorWithPadding(DefaultCollator):
    """Pads or truncates every row, on the right, to the block's length."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> BaseBatch:
        """Collate rows of any length.

        Raises:
            ArgumentError: There is no block size.
        """
        if self.block_size is None:
            raise ArgumentError("block_size is None; say to which length rows are padded")
        return self._pad(_rows(examples), self.block_size)


class DefaultCollatorWithDynamicPadding(DefaultCollator):
    """Pads every row to the longest one; the block's length, where given, is the most."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> BaseBatch:
        """Collate rows of any length."""
        rows = _rows(examples)
        longest = rows.longest
        width = longest if self.block_size is None else min(longest, self.block_size)
        return self._pad(rows, width)


def _rows(examples: Sequence[Mapping[str, Any]]) -> Ragged:
    held = examples.ids("input_ids") if isinstance(examples, Selection) else None
    if held is not None:
        return held
    if not examples:
        raise ArgumentError("there are no examples to collate; a batch has at least one row")
    for row, example in enumerate(examples):
        if "input_ids" not in example:
            raise ArgumentError(
                f"example {row} holds {sorted(example)!r} and no 'input_ids'; "
                "preprocess the dataset into token ids"
            )
    return Ragged.of([example["input_ids"] for example in examples])
