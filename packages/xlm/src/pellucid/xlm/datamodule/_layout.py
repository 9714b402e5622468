"""How prompts and what follows them stand in a rectangle, for the collators of any family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.datamodule._padding import pad_with_mask
from pellucid.xlm.datamodule._ragged import Ragged
from pellucid.xlm.datamodule._table import Selection

Rectangle = tuple[Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]
"""Token ids, and where they are no padding."""


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """Texts with their ends marked, padded on the right.

    Attributes:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a row, special ones included.
        add_bos: Begin every text with BOS.
        add_eos: End every text with EOS.
        truncate: "block" pads or cuts every row to the block; "max" pads to the longest row and
            cuts at the block; None pads to the longest row and cuts nothing.
    """

    tokenizer: Any
    block_size: int
    add_bos: bool = False
    add_eos: bool = False
    truncate: str | None = "block"

    def __post_init__(self) -> None:
        _check_block("block_size", self.block_size)
        _check_truncation(self.truncate)

    def lay_out(self, rows: Sequence[Sequence[int]]) -> Rectangle:
        """Lay rows of token ids out."""
        ended = with_ends(
            rows,
            before=self.tokenizer.bos_token_id if self.add_bos else None,
            after=self.tokenizer.eos_token_id if self.add_eos else None,
        )
        width = ended.longest
        if self.truncate is not None:
            width = self.block_size if self.truncate == "block" else min(width, self.block_size)
        return pad_with_mask(ended, width, pad=self.tokenizer.pad_token_id)


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """Prompts, padded on the left, so that all of them end in the same column.

    Attributes:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a prompt, BOS included. A prompt is never cut.
        add_bos: Put BOS before the prompt ("input"), after it ("output"), or nowhere (None).
        truncate: "block" pads to the block, anything else to the longest prompt.
    """

    tokenizer: Any
    block_size: int
    add_bos: str | None = None
    truncate: str | None = "block"

    def __post_init__(self) -> None:
        _check_block("input_block_size", self.block_size)
        _check_truncation(self.truncate)
        if self.add_bos not in (None, "input", "output"):
            raise ArgumentError(f"add_bos is {self.add_bos!r}; give 'input', 'output' or None")

    def end(self, prompts: Sequence[Sequence[int]]) -> Ragged:
        """Return the prompts with BOS where it belongs.

        Raises:
            ArgumentError: A prompt does not fit into its block.
        """
        bos = self.tokenizer.bos_token_id
        rows = with_ends(
            prompts,
            before=bos if self.add_bos == "input" else None,
            after=bos if self.add_bos == "output" else None,
        )
        longest = rows.longest
        if longest > self.block_size:
            raise ArgumentError(
                f"a prompt has {longest} tokens, BOS included, and does not fit into "
                f"input_block_size={self.block_size!r}; raise it"
            )
        return rows

    def lay_out(self, prompts: Sequence[Sequence[int]]) -> Rectangle:
        """Lay prompts out.

        Raises:
            ArgumentError: A prompt does not fit into its block.
        """
        rows = self.end(prompts)
        width = self.block_size if self.truncate == "block" else rows.longest
        return pad_with_mask(rows, width, pad=self.tokenizer.pad_token_id, pad_side="left")


def with_ends(
    rows: Sequence[Sequence[int]], *, before: int | None = None, after: int | None = None
) -> Ragged:
    """Put a token before and after each row."""
    return Ragged.of(rows).between(before, after)


def read_rows(examples: Sequence[Mapping[str, Any]], *fields: str) -> Sequence[Sequence[int]]:
    """Return the first of some fields that each example has.

    Raises:
        ArgumentError: An example has none of them, or there are no examples.
    """
    held = examples.ids(*fields) if isinstance(examples, Selection) else None
    if held is not None:
        return held
    if not examples:
        raise ArgumentError("there are no examples to collate; a batch has at least one row")
    field = next((name for name in fields if examples[0].get(name) is not None), None)
    if field is None:
        raise ArgumentError(
            f"an example holds {sorted(examples[0])!r} and no {' or '.join(map(repr, fields))}; "
            "preprocess the dataset into these"
        )
    return [example[field] for example in examples]


def pass_through(
    examples: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> dict[str, list[Any]]:
    """Return fields of examples that a batch holds as they are; None where an example has none."""
    return {name: [example.get(name) for example in examples] for name in fields}


def _check_block(name: str, value: int) -> None:
    if value < 1:
        raise ArgumentError(f"{name} is {value!r}; a block holds at least one token")


def _check_truncation(truncate: str | None) -> None:
    if truncate not in ("block", "max", None):
        raise ArgumentError(f"truncate is {truncate!r}; give 'block', 'max' or None")
