"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.families.mlm._masking import mask_batch
from pellucid.families.mlm.types_mlm import MLMBatch, MLMPredictionBatch, PackedMLMBatch
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule import (
    InfillCollator,
    MaskTexts,
    PromptCollator,
    SuffixLayout,
    TextLayout,
    check_special_tokens,
    is_token_mask,
    pad_rows,
    pass_through,
    read_rows,
)
from pellucid.xlm.datamodule import MaskedEmptyDataset as MLMEmptyDataset
from pellucid.xlm.datamodule import print_batch as print_batch_mlm


class _MaskingCollator(Collator):
    """Masks what a subclass lays out."""

    def __init__(self, tokenizer: Any, block_size: int, noise_schedule: Any = None) -> None:
        check_special_tokens(tokenizer, ("pad", "mask", "bos", "eos"))
        self.tokenizer, self.block_size = tokenizer, block_size
        self.noise_schedule = noise_schedule
        self._width = block_size

    def _mask(
        self,
        ids: Int64[Tensor, "batch pos"],
        is_shown: Bool[Tensor, "batch pos"],
        is_eligible: Bool[Tensor, "batch pos"],
    ) -> MLMBatch:
        mask_id = self.tokenizer.mask_token_id
        return mask_batch(ids, is_shown, is_eligible, mask_id=mask_id, generator=self.generator)


class DefaultMLMCollator(_MaskingCollator):
    """Whole texts: BOS, the tokens, EOS, and padding on the right.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a row, special ones included.
        noise_schedule: Not read: every number of masks is as likely.
        loss_on_padding: Show padding, mask and ask about it like any token: so the network learns
            how long texts are. Otherwise it is hidden.
        truncate: See `TextLayout`.
        add_bos: Begin every text with BOS, which is never masked.
        add_eos: End every text with EOS.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        loss_on_padding: bool = True,
        truncate: str | None = "block",
        add_bos: bool = True,
        add_eos: bool = True,
    ) -> None:
        super().__init__(tokenizer, block_size, noise_schedule)
        self.loss_on_padding, self.add_bos = loss_on_padding, add_bos
        self._texts = TextLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            add_bos=add_bos,
            add_eos=add_eos,
            truncate=truncate,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MLMBatch:
        """Collate examples with `input_ids`."""
        ids, is_token = self._texts.lay_out(read_rows(examples, "input_ids"))
        is_shown = torch.ones_like(is_token) if self.loss_on_padding else is_token
        is_eligible = is_shown.clone()
        is_eligible[:, : int(self.add_bos)] = False
        return self._mask(ids, is_shown, is_eligible)


class _Seq2SeqCollator(_MaskingCollator):
    """What collators of prompts and suffixes have in common."""

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int,
        loss_on_padding: bool = True,
        pass_through_fields: Sequence[str] = (),
        **layout: Any,
    ) -> None:
        """Say how prompts and suffixes are laid out.

        Args:
            tokenizer: Whose special tokens are put in.
            block_size: How many positions a suffix has, EOS included.
            noise_schedule: Not read.
            input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
            loss_on_padding: As for `DefaultMLMCollator`, for the padding of suffixes.
            pass_through_fields: Fields of examples that the batch holds as lists.
            layout: What else `SuffixLayout` takes: `add_bos`, `add_eos`, `truncate`, `prompt_field`
                and `target_field`.
        """
        super().__init__(tokenizer, block_size, noise_schedule)
        self.input_block_size = input_block_size
        self.loss_on_padding = loss_on_padding
        self._passed = tuple(pass_through_fields)
        self._layout = SuffixLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            input_block_size=input_block_size,
            with_padding=loss_on_padding,
            **layout,
        )


class MLMSeq2SeqTrainCollator(_Seq2SeqCollator):
    """Prompt, BOS, suffix and EOS without a gap, then the padding of the suffix; nothing before it.

    A suffix has `block_size` positions, wherever it begins; what is after them is hidden.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MLMBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        joined = self._layout.join(examples)
        batch = self._mask(joined.ids, joined.is_shown, joined.is_suffix)
        return cast("MLMBatch", {**batch, **pass_through(examples, self._passed)})


class MLMSeq2SeqCollator(_Seq2SeqCollator):
    """Prompts padded on the left, suffixes on the right, all in the same columns."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MLMBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        prompts, has_prompt, _ = self._layout.lay_out(examples)
        suffixes, has_suffix = self._layout.suffixes.lay_out(self._layout.read_suffixes(examples))
        if self.loss_on_padding:
            has_suffix = torch.ones_like(has_suffix)
        nothing = torch.zeros_like(has_prompt)
        batch = self._mask(
            torch.cat((prompts, suffixes), dim=1),
            torch.cat((has_prompt, has_suffix), dim=1),
            torch.cat((nothing, has_suffix), dim=1),
        )
        return cast("MLMBatch", {**batch, **pass_through(examples, self._passed)})


class MLMSeq2SeqPredCollator(PromptCollator):
    """Prompts alone, padded on the left, and what should follow them; see `PromptCollator`."""


class MLMSeq2SeqFullPredCollator(MLMSeq2SeqPredCollator):
    """Prompts, padded on the left, and a whole block of masks after them.

    There is nothing for the predictor to add, so its `max_new_tokens` is None; `target_ids` is as
    wide as the row.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MLMPredictionBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        batch = super().__call__(examples)
        ends = {
            "input_ids": self.tokenizer.mask_token_id,
            "attention_mask": True,
            "fixed_positions_mask": False,
        }
        wider = {
            name: functional.pad(batch[name], (0, self._layout.block_size), value=value)
            for name, value in ends.items()
        }
        targets = torch.cat((batch["input_ids"], batch["target_ids"]), dim=1)
        return cast("MLMPredictionBatch", {**batch, **wider, "target_ids": targets})


class MLMInfillPredCollator(InfillCollator):
    """Texts that have masks in them, without what belongs there; see `InfillCollator`."""


class MLMInfillWithExactTargetPredCollator(MLMInfillPredCollator):
    """Texts that have masks in them, and the same texts without."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MLMPredictionBatch:
        """Collate examples with `input_ids` and `target_ids`.

        Raises:
            ArgumentError: A text and its target differ in length, or where nothing is masked; or
                they do not fit into the block.
        """
        batch: dict[str, Tensor] = super().__call__(examples)
        return cast("MLMPredictionBatch", {**batch, "target_ids": self._targets(examples)})

    def _targets(self, examples: Sequence[Mapping[str, Any]]) -> Int64[Tensor, "batch pos"]:
        ids, is_token = self.fit(read_rows(examples, "input_ids"))
        targets, has_target = self.fit(read_rows(examples, "target_ids"))
        differ = (ids != targets) & (ids != self.tokenizer.mask_token_id)
        if bool((is_token != has_target).any()) or bool(differ.any()):
            message = (
                "a text and its target differ in length, or where the text has no mask; "
                "give the same tokens in both"
            )
            raise ArgumentError(message)
        return targets


class DefaultInfillMLMCollator(MLMInfillWithExactTargetPredCollator):
    """The same texts to learn from: some of the gaps are masked, the others show their token."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # batches are the family's
        self, examples: Sequence[Mapping[str, Any]]
    ) -> MLMBatch:
        """Collate examples with `input_ids` and `target_ids`.

        Raises:
            ArgumentError: A text and its target differ in length, or where nothing is masked; or
                they do not fit into the block.
        """
        targets = self._targets(examples)
        ids, is_token = self.fit(read_rows(examples, "input_ids"))
        mask_id = self.tokenizer.mask_token_id
        return mask_batch(
            targets, is_token, ids == mask_id, mask_id=mask_id, generator=self.generator
        )


class PackedMLMCollator(_MaskingCollator):
    """Rows of several texts, as `pack_sequences` makes them with segments.

    Args:
        tokenizer: Whose mask is put in.
        block_size: Tokens of a row.
        noise_schedule: Not read.
        use_flex_attn: Kept for those who ask; the network decides.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        use_flex_attn: bool = False,
    ) -> None:
        super().__init__(tokenizer, block_size, noise_schedule)
        self.use_flex_attn = use_flex_attn

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> PackedMLMBatch:
        """Collate examples with `input_ids`, `segment_ids` and `positions`."""
        ids, lengths = pad_rows(
            read_rows(examples, "input_ids"), self._width, pad=self.tokenizer.pad_token_id
        )
        # Padding is a text of its own, that nobody else sees.
        segments, _ = pad_rows(read_rows(examples, "segment_ids"), self._width, pad=-1)
        positions, _ = pad_rows(read_rows(examples, "positions"), self._width, pad=0)
        is_token = is_token_mask(lengths, self._width)
        return {
            **self._mask(ids, is_token, is_token),
            "segment_ids": segments,
            "positions": positions,
        }


class MLMEmptyDatasetFromLengthRef(MaskTexts):
    """Texts of masks alone, as long as texts of a reference are.

    Args:
        tokenizer: Whose BOS begins each text.
        num_examples: How many.
        lengths: Tokens of the texts of the reference, BOS included; each is as likely to be taken.
        seed: Of the draw.

    Raises:
        ArgumentError: There are no lengths, or one has no room for a token after BOS.
    """

    def __init__(
        self, tokenizer: Any, num_examples: int, lengths: Sequence[int], *, seed: int = 0
    ) -> None:
        if not lengths or min(lengths) < 2:
            message = f"lengths are {list(lengths)!r}; leave room for a token after BOS in each"
            raise ArgumentError(message)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(lengths), (num_examples,), generator=generator)
        super().__init__(tokenizer, [lengths[index] for index in drawn.tolist()])


__all__ = [
    "DefaultInfillMLMCollator",
    "DefaultMLMCollator",
    "MLMEmptyDataset",
    "MLMEmptyDatasetFromLengthRef",
    "MLMInfillPredCollator",
    "MLMInfillWithExactTargetPredCollator",
    "MLMSeq2SeqCollator",
    "MLMSeq2SeqFullPredCollator",
    "MLMSeq2SeqPredCollator",
    "MLMSeq2SeqTrainCollator",
    "PackedMLMCollator",
    "print_batch_mlm",
]
