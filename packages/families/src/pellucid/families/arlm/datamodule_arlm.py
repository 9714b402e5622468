"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.families.arlm.types_arlm import (
    PADDING_TYPE,
    PROMPT_TYPE,
    SUFFIX_TYPE,
    ARLMBatch,
    ARLMPredictionBatch,
    ARLMSeq2SeqBatch,
)
from pellucid.xlm.contracts import IGNORED, Collator
from pellucid.xlm.datamodule import DefaultEmptyDataset as ARLMEmptyDataset
from pellucid.xlm.datamodule import PromptLayout, TextLayout, check_special_tokens, read_rows
from pellucid.xlm.datamodule import print_batch as print_batch_arlm


class DefaultARLMCollator(Collator):
    """Whole texts: BOS, the tokens, EOS if asked for, and padding on the right.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a row, special ones included.
        noise_schedule: Not read; the family knows no noise.
        truncate: See `TextLayout`.
        add_eos: End every text with EOS; then its length is learnt too.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        truncate: str | None = "block",
        add_eos: bool = False,
    ) -> None:
        check_special_tokens(tokenizer, ("pad", "bos", "eos") if add_eos else ("pad", "bos"))
        self.tokenizer, self.block_size = tokenizer, block_size
        self.noise_schedule = noise_schedule
        self._texts = TextLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            add_bos=True,
            add_eos=add_eos,
            truncate=truncate,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> ARLMBatch:
        """Collate examples with `input_ids`."""
        ids, is_token = self._texts.lay_out(read_rows(examples, "input_ids"))
        return {
            "input_ids": ids,
            "attention_mask": is_token,
            "target_ids": _next_tokens(ids, is_token),
        }


class ARLMSeq2SeqPredCollator(Collator):
    """Prompts alone, padded on the left, and what should follow them.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens that follow, EOS included; more are cut.
        noise_schedule: Not read.
        input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
        add_bos: Put BOS before the prompt ("input"), after it ("output"), or nowhere (None).
        add_eos: End what follows with EOS.
        truncate: See `TextLayout`.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int,
        add_bos: str | None = None,
        add_eos: bool = False,
        truncate: str | None = "block",
    ) -> None:
        needed = {"pad": True, "bos": add_bos is not None, "eos": add_eos}
        check_special_tokens(tokenizer, [role for role, is_needed in needed.items() if is_needed])
        self.tokenizer, self.noise_schedule = tokenizer, noise_schedule
        self.block_size, self.input_block_size = block_size, input_block_size
        self._prompts = PromptLayout(
            tokenizer=tokenizer, block_size=input_block_size, add_bos=add_bos, truncate=truncate
        )
        self._suffixes = TextLayout(
            tokenizer=tokenizer, block_size=block_size, add_eos=add_eos, truncate=truncate
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> ARLMPredictionBatch:
        """Collate examples with `prompt_ids`, and `input_ids` or `target_ids` for what follows.

        Raises:
            ArgumentError: A prompt does not fit into its block.
        """
        prompts, has_prompt = self._prompts.lay_out(read_rows(examples, "prompt_ids"))
        suffixes, _ = self._suffixes.lay_out(read_rows(examples, "target_ids", "input_ids"))
        return {
            "input_ids": prompts,
            "attention_mask": has_prompt,
            "token_type_ids": torch.where(has_prompt, PROMPT_TYPE, PADDING_TYPE),
            "target_ids": suffixes,
        }


class ARLMSeq2SeqCollator(ARLMSeq2SeqPredCollator):
    """Prompts, padded on the left, and after them what follows, padded on the right."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # batches are the family's
        self, examples: Sequence[Mapping[str, Any]]
    ) -> ARLMSeq2SeqBatch:
        """Collate examples with `prompt_ids`, and `input_ids` or `target_ids` for what follows.

        Raises:
            ArgumentError: A prompt does not fit into its block.
        """
        prompts, has_prompt = self._prompts.lay_out(read_rows(examples, "prompt_ids"))
        suffixes, has_suffix = self._suffixes.lay_out(
            read_rows(examples, "target_ids", "input_ids")
        )
        ids = torch.cat((prompts, suffixes), dim=1)
        is_token = torch.cat((has_prompt, has_suffix), dim=1)
        types = (
            torch.where(has_prompt, PROMPT_TYPE, PADDING_TYPE),
            torch.where(has_suffix, SUFFIX_TYPE, PADDING_TYPE),
        )
        return {
            "input_ids": ids,
            "attention_mask": is_token,
            "token_type_ids": torch.cat(types, dim=1),
            "target_ids": _next_tokens(ids, is_token),
        }


def _next_tokens(
    ids: Int64[Tensor, "batch pos"], is_token: Bool[Tensor, "batch pos"]
) -> Int64[Tensor, "batch pos"]:
    """Return the token after each token; `IGNORED` before and after padding."""
    targets = torch.full_like(ids, IGNORED)
    both = is_token[:, :-1] & is_token[:, 1:]
    targets[:, :-1] = torch.where(both, ids[:, 1:], IGNORED)
    return targets


__all__ = [
    "ARLMEmptyDataset",
    "ARLMSeq2SeqCollator",
    "ARLMSeq2SeqPredCollator",
    "DefaultARLMCollator",
    "print_batch_arlm",
]
