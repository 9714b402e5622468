"""Batches of prompts, for the predictors of any family that fills masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.xlm._space_tokenizer import check_special_tokens
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule._joined import SuffixLayout
from pellucid.xlm.datamodule._layout import pass_through


class PromptCollator(Collator):
    """Prompts alone, padded on the left, and what should follow them.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: How many positions what follows has, EOS included.
        noise_schedule: Not read.
        input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
        pass_through_fields: Fields of examples that the batch holds as lists.
        layout: What else `SuffixLayout` takes: `add_bos`, `add_eos`, `truncate`, `prompt_field` and
            `target_field`.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int,
        pass_through_fields: Sequence[str] = (),
        **layout: Any,
    ) -> None:
        check_special_tokens(tokenizer, ("pad", "mask", "bos", "eos"))
        self.tokenizer, self.noise_schedule = tokenizer, noise_schedule
        self.block_size, self.input_block_size = block_size, input_block_size
        self._passed = tuple(pass_through_fields)
        self._layout = SuffixLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            input_block_size=input_block_size,
            **layout,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        """Collate examples with `prompt_ids`, and `target_ids` or `input_ids` for what follows.

        Returns:
            `input_ids`, `attention_mask` and `fixed_positions_mask`, (batch, pos); `target_ids`,
            (batch, target_pos); and the fields that are passed through.

        Raises:
            ArgumentError: A prompt or what follows does not fit into its block.
        """
        prompts, has_prompt, suffixes = self._layout.lay_out(examples)
        return {
            "input_ids": prompts,
            "attention_mask": has_prompt,
            "target_ids": suffixes,
            "fixed_positions_mask": torch.ones_like(has_prompt),
            **pass_through(examples, self._passed),
        }
