"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.families.flexmdm._noising import check_tokenizer
from pellucid.families.flexmdm.types_flexmdm import FlexMDMBatch, FlexMDMPredictionBatch
from pellucid.xlm.contracts import IGNORED, Collator
from pellucid.xlm.datamodule import (
    PromptLayout,
    Ragged,
    TextLayout,
    check_special_tokens,
    is_token_mask,
    pad_rows,
    pass_through,
    read_rows,
    with_ends,
)
from pellucid.xlm.datamodule import print_batch as print_batch_flexmdm


class _FlexMDMCollator(Collator):
    """What collators of the family have in common."""

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int = 0,
        prompt_field: str = "prompt_ids",
        target_field: str = "target_ids",
        add_bos: str | None = "output",
        truncate: str | None = "block",
        pass_through_fields: Sequence[str] = (),
    ) -> None:
        """Say how texts are laid out.

        Args:
            tokenizer: Whose special tokens are put in.
            block_size: The most tokens of a text, EOS included, and BOS too if there are no
                prompts.
            noise_schedule: Not read: the loss draws the noise.
            input_block_size: The most tokens of a prompt, BOS included; 0 for texts alone.
            prompt_field: Where an example has its prompt.
            target_field: Where an example has its text; `input_ids` if it has no such field.
            add_bos: Put BOS before the prompt ("input"), after it ("output"), or nowhere (None).
            truncate: "block" pads rows to their blocks, anything else to the longest.
            pass_through_fields: Fields of examples that the batch holds as lists.
        """
        check_special_tokens(tokenizer, ("pad", "mask", "bos", "eos"))
        check_tokenizer(tokenizer)
        self.tokenizer, self.noise_schedule = tokenizer, noise_schedule
        self.block_size, self.input_block_size = block_size, input_block_size
        self._targets = TextLayout(tokenizer=tokenizer, block_size=block_size, add_eos=True)
        n_bos = int(add_bos is not None)
        self._room = block_size - 1 - (0 if input_block_size else n_bos)
        if self._room < 1:
            message = f"block_size is {block_size!r}; leave room for a token beside BOS and EOS"
            raise ArgumentError(message)
        self._width = block_size + input_block_size
        self._fields = (prompt_field, target_field)
        self._passed = tuple(pass_through_fields)
        self._prompts = PromptLayout(
            tokenizer=tokenizer,
            block_size=input_block_size or max(n_bos, 1),
            add_bos=add_bos,
            truncate=truncate,
        )

    def _read_prompts(self, examples: Sequence[Mapping[str, Any]]) -> Sequence[Sequence[int]]:
        """Return the prompts, empty ones for texts alone."""
        if not self.input_block_size:
            return [[] for _ in examples]
        return read_rows(examples, self._fields[0])

    def _read_texts(self, examples: Sequence[Mapping[str, Any]]) -> Sequence[Sequence[int]]:
        """Return the texts; those that have no prompt are cut to their block.

        Raises:
            ArgumentError: What follows a prompt does not fit into its block.
        """
        rows = Ragged.of(read_rows(examples, self._fields[1], "input_ids"))
        longest = rows.longest
        if longest <= self._room:
            return rows
        if self.input_block_size:
            message = (
                f"a suffix has {longest + 1} tokens, EOS included, and does not fit into "
                f"block_size={self.block_size!r}; raise it"
            )
            raise ArgumentError(message)
        return [row[: self._room] for row in rows]


class FlexMDMTrainCollator(_FlexMDMCollator):
    """Prompt, BOS, text, EOS, and padding on the right; or texts without prompts.

    A text that does not fit is cut before EOS; one that follows a prompt must fit.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> FlexMDMBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt, or what follows one, does not fit into its block.
        """
        prompts = self._prompts.end(self._read_prompts(examples))
        texts = with_ends(self._read_texts(examples), after=self.tokenizer.eos_token_id)
        rows = prompts.followed_by(texts)
        width = self._width if self._prompts.truncate == "block" else rows.longest
        ids, lengths = pad_rows(rows, width, pad=self.tokenizer.pad_token_id)
        is_token = is_token_mask(lengths, width)
        starts = torch.from_numpy(prompts.lengths)[:, None]
        fixed = (torch.arange(width) < starts) | ~is_token
        stays = fixed | (ids == self.tokenizer.eos_token_id)
        batch: FlexMDMBatch = {
            "input_ids": ids,
            "attention_mask": is_token,
            "fixed": fixed,
            "target_ids": ids.masked_fill(stays, IGNORED),
        }
        return cast("FlexMDMBatch", {**batch, **pass_through(examples, self._passed)})


class FlexMDMPredCollator(_FlexMDMCollator):
    """Prompts, padded on the left, and EOS: texts grow between them. Empty prompts for none."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> FlexMDMPredictionBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt, or what should follow one, does not fit into its block.
        """
        prompts, is_token = self._prompts.lay_out(self._read_prompts(examples))
        batch: FlexMDMPredictionBatch = {
            "input_ids": functional.pad(prompts, (0, 1), value=self.tokenizer.eos_token_id),
            "attention_mask": functional.pad(is_token, (0, 1), value=True),
            "fixed": functional.pad(torch.ones_like(is_token), (0, 1), value=False),
            "target_ids": self._targets.lay_out(self._read_texts(examples))[0],
        }
        return cast("FlexMDMPredictionBatch", {**batch, **pass_through(examples, self._passed)})


class FlexMDMInfillPredCollator(_FlexMDMCollator):
    """Texts that tokens are missing from, anywhere: BOS, what is left of the text, EOS, padding.

    Masks among the tokens are filled. `target_ids` holds the whole text if examples have it.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> FlexMDMPredictionBatch:
        """Collate examples with `input_ids`, and `target_ids` if there are any.

        Raises:
            ArgumentError: A text does not fit into the block.
        """
        batch = self._lay_out(read_rows(examples, "input_ids"))
        fixed = torch.zeros_like(batch["attention_mask"])
        # Nothing comes before BOS.
        fixed[:, : int(self._prompts.add_bos is not None)] = True
        batch["fixed"] = fixed
        if examples[0].get(self._fields[1]) is not None:
            batch["target_ids"] = self._lay_out(read_rows(examples, self._fields[1]))["input_ids"]
        return cast("FlexMDMPredictionBatch", {**batch, **pass_through(examples, self._passed)})

    def _lay_out(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        bos = None if self._prompts.add_bos is None else self.tokenizer.bos_token_id
        ended = with_ends(rows, before=bos, after=self.tokenizer.eos_token_id)
        longest = ended.longest
        if longest > self._width:
            message = (
                f"a text has {longest} tokens, special ones included, and does not fit into "
                f"block_size={self.block_size!r}; raise it"
            )
            raise ArgumentError(message)
        width = self._width if self._prompts.truncate == "block" else longest
        ids, lengths = pad_rows(ended, width, pad=self.tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": is_token_mask(lengths, width)}


__all__ = [
    "FlexMDMInfillPredCollator",
    "FlexMDMPredCollator",
    "FlexMDMTrainCollator",
    "print_batch_flexmdm",
]
