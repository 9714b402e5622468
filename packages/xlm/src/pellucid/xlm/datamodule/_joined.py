"""Prompts and suffixes in one rectangle, for the training collators of any family."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.datamodule._layout import PromptLayout, TextLayout, read_rows, with_ends
from pellucid.xlm.datamodule._padding import pad_with_mask
from pellucid.xlm.datamodule._ragged import Ragged


@dataclass(frozen=True, eq=False)
class Joined:
    """Rows of prompts and suffixes.

    Attributes:
        ids: Token ids.
        is_shown: False on what is hidden from the network.
        is_suffix: What belongs to the suffix: its tokens, EOS, and padding where that is asked.
    """

    ids: Int64[Tensor, "batch pos"]
    is_shown: Bool[Tensor, "batch pos"]
    is_suffix: Bool[Tensor, "batch pos"]


@dataclass(frozen=True, kw_only=True)
class SuffixLayout:
    """Prompts that end in one column, or suffixes that follow them without a gap.

    Attributes:
        tokenizer: Whose special tokens are put in.
        block_size: How many positions a suffix has, EOS included.
        input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
        add_bos: Put BOS before the prompt ("input"), after it ("output"), or nowhere (None).
        add_eos: End the suffix with EOS.
        with_padding: Count the padding of a suffix as a part of it, and show it.
        truncate: "block" pads prompts to their block, anything else to the longest prompt.
        prompt_field: Where an example has its prompt.
        target_field: Where an example has its suffix; `input_ids` if it has no such field.
    """

    tokenizer: Any
    block_size: int
    input_block_size: int
    add_bos: str | None = "output"
    add_eos: bool = True
    with_padding: bool = True
    truncate: str | None = "block"
    prompt_field: str = "prompt_ids"
    target_field: str = "target_ids"

    def __post_init__(self) -> None:
        _ = self.prompts, self.suffixes  # so that wrong settings are known now

    @functools.cached_property
    def prompts(self) -> PromptLayout:
        """How prompts alone are laid out."""
        return PromptLayout(
            tokenizer=self.tokenizer,
            block_size=self.input_block_size,
            add_bos=self.add_bos,
            truncate=self.truncate,
        )

    @functools.cached_property
    def suffixes(self) -> TextLayout:
        """How suffixes alone are laid out."""
        return TextLayout(
            tokenizer=self.tokenizer, block_size=self.block_size, add_eos=self.add_eos
        )

    def lay_out(
        self, examples: Sequence[Mapping[str, Any]]
    ) -> tuple[
        Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Int64[Tensor, "batch target_pos"]
    ]:
        """Lay prompts out, padded on the left, and beside them suffixes, padded on the right.

        Returns:
            The prompts, where they are no padding, and the suffixes.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts, has_prompt = self.prompts.lay_out(read_rows(examples, self.prompt_field))
        suffixes, _ = self.suffixes.lay_out(self.read_suffixes(examples))
        return prompts, has_prompt, suffixes

    def join(self, examples: Sequence[Mapping[str, Any]]) -> Joined:
        """Lay prompts and suffixes out without a gap, from the first column on.

        A suffix has `block_size` positions, wherever it begins; what is after them is hidden.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts = self.prompts.end(read_rows(examples, self.prompt_field))
        after = self.tokenizer.eos_token_id if self.add_eos else None
        rows = prompts.followed_by(with_ends(self.read_suffixes(examples), after=after))
        width = self.block_size + (
            self.input_block_size if self.truncate == "block" else prompts.longest
        )
        ids, is_token = pad_with_mask(rows, width, pad=self.tokenizer.pad_token_id)
        starts, columns = torch.from_numpy(prompts.lengths)[:, None], torch.arange(width)
        is_shown = columns < starts + self.block_size if self.with_padding else is_token
        return Joined(ids, is_shown, is_shown & (columns >= starts))

    def read_suffixes(self, examples: Sequence[Mapping[str, Any]]) -> Ragged:
        """Return the suffixes of examples.

        Raises:
            ArgumentError: One does not fit into its block.
        """
        rows = Ragged.of(read_rows(examples, self.target_field, "input_ids"))
        longest = rows.longest + self.add_eos
        if longest > self.block_size:
            message = (
                f"a suffix has {longest} tokens, EOS included, and does not fit into "
                f"block_size={self.block_size!r}; raise it"
            )
            raise ArgumentError(message)
        return rows
