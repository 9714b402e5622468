"""Batches of texts with gaps, for the predictors of any family that fills masks."""

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.core import ArgumentError
from pellucid.xlm._space_tokenizer import check_special_tokens
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule._layout import Rectangle, read_rows
from pellucid.xlm.datamodule._padding import pad_with_mask
from pellucid.xlm.datamodule._ragged import Ragged


class InfillCollator(Collator):
    """Texts that have masks in them, padded on the right, without what belongs there.

    Args:
        tokenizer: Whose mask and padding are meant.
        block_size: The most tokens of a text; a longer one is an error.
        noise_schedule: Not read.
    """

    def __init__(self, tokenizer: Any, block_size: int, noise_schedule: Any = None) -> None:
        check_special_tokens(tokenizer, ("pad", "mask"))
        self.tokenizer, self.block_size = tokenizer, block_size
        self.noise_schedule = noise_schedule
        self._width = block_size

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        """Collate examples with `input_ids`.

        Returns:
            `input_ids`, `attention_mask` and `fixed_positions_mask`, (batch, pos).

        Raises:
            ArgumentError: A text does not fit into the block.
        """
        ids, is_token = self.fit(read_rows(examples, "input_ids"))
        return {
            "input_ids": ids,
            "attention_mask": is_token,
            "fixed_positions_mask": ids != self.tokenizer.mask_token_id,
        }

    def fit(self, rows: Sequence[Sequence[int]]) -> Rectangle:
        """Pad rows to the block; return their token ids, and where they are no padding.

        Raises:
            ArgumentError: A row does not fit into the block.
        """
        rows = Ragged.of(rows)
        longest = rows.longest
        if longest > self._width:
            message = (
                f"a text has {longest} tokens and does not fit into "
                f"block_size={self._width!r}; raise it"
            )
            raise ArgumentError(message)
        return pad_with_mask(rows, self._width, pad=self.tokenizer.pad_token_id)
