"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from pellucid.families.dream.types_dream import DreamPredictionBatch
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule import SuffixLayout


class DreamPredCollator(Collator):
    """Prompts alone, padded on the left, and what should follow them.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: How many positions what follows has, EOS included.
        noise_schedule: Not read.
        input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
        pass_through_fields: Fields of examples that the batch holds as lists.
        layout: What else `SuffixLayout` takes: `add_bos` (nowhere by default), `add_eos`,
            `truncate`, `prompt_field` and `target_field`.
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
        self.tokenizer, self.block_size = tokenizer, block_size
        self.noise_schedule, self.input_block_size = noise_schedule, input_block_size
        self._passed = tuple(pass_through_fields)
        settings: dict[str, Any] = {"add_bos": None, **layout}
        self._layout = SuffixLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            input_block_size=input_block_size,
            **settings,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> DreamPredictionBatch:
        """Collate examples with `prompt_ids`, and `target_ids` or `input_ids` for what follows.

        Raises:
            ArgumentError: A prompt or what follows does not fit into its block.
        """
        prompts, has_prompt, suffixes = self._layout.lay_out(examples)
        batch: DreamPredictionBatch = {
            "input_ids": prompts,
            "attention_mask": has_prompt,
            "target_ids": suffixes,
            "fixed_positions_mask": torch.ones_like(has_prompt),
        }
        passed = {name: [example.get(name) for example in examples] for name in self._passed}
        return cast("DreamPredictionBatch", {**batch, **passed})
