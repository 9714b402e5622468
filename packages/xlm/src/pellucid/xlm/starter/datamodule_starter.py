"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.xlm.contracts import IGNORED, Collator
from pellucid.xlm.datamodule import SuffixLayout, TextLayout, check_special_tokens, read_rows
from pellucid.xlm.starter.types_starter import StarterBatch, StarterPredictionBatch


class DefaultStarterCollator(Collator):
    """Whole texts: BOS, the tokens, EOS, and padding on the right, which is learnt too.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a row, special ones included.
        noise_schedule: Not read.
    """

    def __init__(self, tokenizer: Any, block_size: int, noise_schedule: Any = None) -> None:
        check_special_tokens(tokenizer, ("pad", "mask", "bos", "eos"))
        self.tokenizer, self.block_size = tokenizer, block_size
        self.noise_schedule = noise_schedule
        self._texts = TextLayout(
            tokenizer=tokenizer, block_size=block_size, add_bos=True, add_eos=True
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> StarterBatch:
        """Collate examples with `input_ids`."""
        ids, is_token = self._texts.lay_out(read_rows(examples, "input_ids"))
        targets = ids.clone()
        targets[:, 0] = IGNORED
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(is_token),
            "target_ids": targets,
        }


class StarterSeq2SeqPredCollator(Collator):
    """Prompts, each with BOS behind it, padded on the left; and what should follow them.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: How many positions a suffix has, EOS included.
        noise_schedule: Not read.
        input_block_size: The most tokens of a prompt, BOS included.
        truncate: "block" pads prompts to their block, "max" to the longest prompt.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int,
        truncate: str = "block",
    ) -> None:
        check_special_tokens(tokenizer, ("pad", "mask", "bos", "eos"))
        self.tokenizer, self.noise_schedule = tokenizer, noise_schedule
        self.block_size, self.input_block_size = block_size, input_block_size
        self._layout = SuffixLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            input_block_size=input_block_size,
            truncate=truncate,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> StarterPredictionBatch:
        """Collate examples with `prompt_ids` and `target_ids`, or `input_ids` for these.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts, is_token, suffixes = self._layout.lay_out(examples)
        return {"input_ids": prompts, "attention_mask": is_token, "target_ids": suffixes}


class StarterSeq2SeqCollator(StarterSeq2SeqPredCollator):
    """The same prompts, with their suffixes after them: of these tokens some will be masked."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # to learn from
        self, examples: Sequence[Mapping[str, Any]]
    ) -> StarterBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts, is_token, suffixes = self._layout.lay_out(examples)
        nothing = torch.full_like(prompts, IGNORED)
        return {
            "input_ids": torch.cat((prompts, suffixes), dim=1),
            "attention_mask": torch.cat((is_token, torch.ones_like(suffixes).bool()), dim=1),
            "target_ids": torch.cat((nothing, suffixes), dim=1),
        }
