"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.families.ilm._drops import draw_drops, drop
from pellucid.families.ilm.types_ilm import (
    CLS_TYPE,
    PADDING_TYPE,
    PROMPT_TYPE,
    SUFFIX_TYPE,
    ILMBatch,
    ILMPredictionBatch,
)
from pellucid.xlm.contracts import IGNORED, Collator
from pellucid.xlm.datamodule import DefaultEmptyDataset as ILMEmptyDataset
from pellucid.xlm.datamodule import (
    PromptLayout,
    Ragged,
    TextLayout,
    check_special_tokens,
    pad_rows,
    read_rows,
    with_ends,
)
from pellucid.xlm.datamodule import print_batch as print_batch_ilm


class _ILMCollator(Collator):
    """What the collators of the family have in common."""

    def __init__(self, tokenizer: Any, block_size: int, noise_schedule: Any = None) -> None:
        check_special_tokens(tokenizer, ("pad", "cls", "bos"))
        self.tokenizer, self.block_size = tokenizer, block_size
        self.noise_schedule = noise_schedule

    def choose_drops(
        self, is_token: Bool[Tensor, "batch target_pos"]
    ) -> Bool[Tensor, "batch target_pos"]:
        """Choose the tokens to drop; override this for another noise."""
        return draw_drops(is_token, generator=self.generator)

    def _drop(
        self,
        prompts: Sequence[Sequence[int]],
        suffixes: Int64[Tensor, "batch target_pos"],
        is_token: Bool[Tensor, "batch target_pos"],
        width: int | None,
    ) -> ILMBatch:
        """Put what is kept of the suffixes after the prompts, which end with BOS.

        Args:
            prompts: With their special tokens.
            suffixes: With padding after them.
            is_token: False on padding.
            width: Of the batch; as narrow as it can be if None.
        """
        prompts = Ragged.of(prompts)
        bos_columns = torch.from_numpy(prompts.lengths) - 1
        is_kept = is_token & ~self.choose_drops(is_token)
        if width is None:
            width = int((bos_columns + is_kept.sum(dim=1)).max()) + 1
        ids, _ = pad_rows(prompts, width, pad=self.tokenizer.pad_token_id)
        ids, columns, ends = drop(ids, bos_columns, suffixes, is_kept)
        types = _token_types(bos_columns, ends, width)
        return {
            "input_ids": ids,
            "attention_mask": types != PADDING_TYPE,
            "token_type_ids": types,
            "target_ids": suffixes.masked_fill(~is_token, IGNORED),
            "target_slots": columns.masked_fill(is_kept | ~is_token, IGNORED),
        }


class DefaultILMCollator(_ILMCollator):
    """Whole texts: CLS, BOS, what is kept of the tokens, and padding on the right.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a row, CLS and BOS included.
        noise_schedule: Not read: every number of dropped tokens is as likely.
        truncate: See `TextLayout`; rows are padded to what is kept of the longest unless it is
            "block".
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        truncate: str | None = "block",
    ) -> None:
        super().__init__(tokenizer, block_size, noise_schedule)
        if block_size < 3:
            message = f"block_size is {block_size!r}; leave room for a token after CLS and BOS"
            raise ArgumentError(message)
        self._texts = TextLayout(tokenizer=tokenizer, block_size=block_size - 2, truncate=truncate)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> ILMBatch:
        """Collate examples with `input_ids`."""
        texts, is_token = self._texts.lay_out(read_rows(examples, "input_ids"))
        begun = [[self.tokenizer.cls_token_id, self.tokenizer.bos_token_id]] * len(texts)
        width = self.block_size if self._texts.truncate == "block" else None
        return self._drop(begun, texts, is_token, width)


class _Seq2SeqCollator(_ILMCollator):
    """What collators of prompts and suffixes have in common."""

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int,
        truncate: str | None = "block",
    ) -> None:
        """Say how prompts and suffixes are laid out.

        Args:
            tokenizer: Whose special tokens are put in.
            block_size: The most tokens of a suffix; a longer one is an error.
            noise_schedule: Not read.
            input_block_size: The most tokens of a prompt, CLS and BOS included; a longer one is an
                error.
            truncate: "block" pads to the blocks, anything else to the longest row.
        """
        super().__init__(tokenizer, block_size, noise_schedule)
        self.input_block_size = input_block_size
        self._prompts = PromptLayout(
            tokenizer=tokenizer, block_size=input_block_size, add_bos="output", truncate=truncate
        )
        self._suffixes = TextLayout(tokenizer=tokenizer, block_size=block_size, truncate=truncate)

    def _read_prompts(self, examples: Sequence[Mapping[str, Any]]) -> Ragged:
        """Return prompts with CLS before them."""
        return with_ends(read_rows(examples, "prompt_ids"), before=self.tokenizer.cls_token_id)

    def _read_suffixes(self, examples: Sequence[Mapping[str, Any]]) -> Ragged:
        rows = Ragged.of(read_rows(examples, "target_ids", "input_ids"))
        longest = rows.longest
        if longest > self._suffixes.block_size:
            message = (
                f"a suffix has {longest} tokens and does not fit into "
                f"block_size={self.block_size!r}; raise it"
            )
            raise ArgumentError(message)
        return rows


class ILMSeq2SeqCollator(_Seq2SeqCollator):
    """CLS, the prompt, BOS, what is kept of the suffix, and padding on the right."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> ILMBatch:
        """Collate examples with `prompt_ids`, and `input_ids` or `target_ids` for what follows.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts = self._prompts.end(self._read_prompts(examples))
        suffixes, is_token = self._suffixes.lay_out(self._read_suffixes(examples))
        is_fixed = self._prompts.truncate == "block"
        width = self._prompts.block_size + self._suffixes.block_size if is_fixed else None
        return self._drop(prompts, suffixes, is_token, width)


class ILMSeq2SeqPredCollator(_Seq2SeqCollator):
    """CLS, the prompt and BOS, padded on the left, and what should follow them."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> ILMPredictionBatch:
        """Collate examples with `prompt_ids`, and `input_ids` or `target_ids` for what follows.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts, has_prompt = self._prompts.lay_out(self._read_prompts(examples))
        suffixes, _ = self._suffixes.lay_out(self._read_suffixes(examples))
        types = torch.where(has_prompt, PROMPT_TYPE, PADDING_TYPE)
        is_cls = has_prompt & (has_prompt.cumsum(dim=1) == 1)
        types = types.masked_fill(is_cls, CLS_TYPE)
        types[:, -1] = SUFFIX_TYPE
        return {
            "input_ids": prompts,
            "attention_mask": has_prompt,
            "token_type_ids": types,
            "target_ids": suffixes,
        }


def _token_types(
    bos_columns: Int64[Tensor, " batch"], ends: Int64[Tensor, " batch"], width: int
) -> Int64[Tensor, "batch pos"]:
    columns = torch.arange(width).expand(len(ends), -1)
    types = torch.where(columns >= bos_columns[:, None], SUFFIX_TYPE, PROMPT_TYPE)
    types[:, 0] = CLS_TYPE
    return types.masked_fill(columns >= ends[:, None], PADDING_TYPE)


__all__ = [
    "DefaultILMCollator",
    "ILMEmptyDataset",
    "ILMSeq2SeqCollator",
    "ILMSeq2SeqPredCollator",
    "print_batch_ilm",
]
