"""From examples to batches of the family."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.mdlm._noising import NOISINGS, noise_batch
from pellucid.families.mdlm.types_mdlm import MDLMBatch, MDLMPredictionBatch
from pellucid.xlm.contracts import IGNORED, Collator
from pellucid.xlm.datamodule import (
    InfillCollator,
    PromptCollator,
    SuffixLayout,
    TextLayout,
    check_special_tokens,
    read_rows,
)
from pellucid.xlm.datamodule import MaskedEmptyDataset as MDLMEmptyDataset
from pellucid.xlm.datamodule import print_batch as print_batch_mdlm
from pellucid.xlm.noise import ContinuousTimeLogLinear

_BOS_LOCATIONS = {"before_prefix": "input", "after_prefix": "output"}


class _NoisingCollator(Collator):
    """Masks what a subclass lays out, and says how much of it is noise."""

    def __init__(
        self, tokenizer: Any, block_size: int, noise_schedule: Any, *, noising: str
    ) -> None:
        check_special_tokens(tokenizer, ("pad", "mask", "bos", "eos"))
        if noising not in NOISINGS:
            raise UnknownNameError("noising", noising, NOISINGS)
        self.tokenizer, self.block_size, self.noising = tokenizer, block_size, noising
        self.noise_schedule = (
            ContinuousTimeLogLinear() if noise_schedule is None else noise_schedule
        )

    def _noise(
        self,
        ids: Int64[Tensor, "batch pos"],
        is_shown: Bool[Tensor, "batch pos"],
        is_eligible: Bool[Tensor, "batch pos"],
    ) -> MDLMBatch:
        noised = noise_batch(
            ids,
            is_eligible,
            kind=self.noising,
            schedule=self.noise_schedule,
            mask_id=self.tokenizer.mask_token_id,
            generator=self.generator,
        )
        batch = {
            "attention_mask": is_shown,
            "target_ids": ids.masked_fill(~is_eligible, IGNORED),
            "fixed_positions_mask": ~is_eligible,
        }
        return cast("MDLMBatch", {**noised, **batch})


class DefaultMDLMCollator(_NoisingCollator):
    """Whole texts: BOS, the tokens, EOS, and padding on the right.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: The most tokens of a row, special ones included.
        noise_schedule: How noise grows with time; log-linear if None.
        loss_on_padding: Show padding, mask and ask about it like any token: so the network learns
            how long texts are. Otherwise it is hidden.
        truncate: See `TextLayout`.
        add_bos: Begin every text with BOS, which is never masked.
        add_eos: End every text with EOS.
        noising: "number" draws how many tokens of a row are masked, then at which noise, and varies
            least; "each" draws a time from the schedule and masks each token by itself. Both have
            the same bound as their mean.
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
        noising: str = "number",
    ) -> None:
        super().__init__(tokenizer, block_size, noise_schedule, noising=noising)
        self.loss_on_padding, self.add_bos = loss_on_padding, add_bos
        self._texts = TextLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            add_bos=add_bos,
            add_eos=add_eos,
            truncate=truncate,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MDLMBatch:
        """Collate examples with `input_ids`."""
        ids, is_token = self._texts.lay_out(read_rows(examples, "input_ids"))
        is_shown = torch.ones_like(is_token) if self.loss_on_padding else is_token
        is_eligible = is_shown.clone()
        is_eligible[:, : int(self.add_bos)] = False
        return self._noise(ids, is_shown, is_eligible)


class MDLMSeq2SeqTrainCollator(_NoisingCollator):
    """Prompt, BOS, suffix and EOS without a gap, then the padding of the suffix; nothing before it.

    A suffix has `block_size` positions, wherever it begins, and they alone are masked; what is
    after them is hidden.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: How many positions a suffix has, EOS included.
        noise_schedule: How noise grows with time; log-linear if None.
        input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
        loss_on_padding: As for `DefaultMDLMCollator`, for the padding of suffixes.
        noising: See `DefaultMDLMCollator`.
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
        loss_on_padding: bool = True,
        noising: str = "number",
        **layout: Any,
    ) -> None:
        super().__init__(tokenizer, block_size, noise_schedule, noising=noising)
        self.input_block_size = input_block_size
        self._layout = SuffixLayout(
            tokenizer=tokenizer,
            block_size=block_size,
            input_block_size=input_block_size,
            with_padding=loss_on_padding,
            **layout,
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MDLMBatch:
        """Collate examples.

        Raises:
            ArgumentError: A prompt or a suffix does not fit into its block.
        """
        joined = self._layout.join(examples)
        return self._noise(joined.ids, joined.is_shown, joined.is_suffix)


class MDLMSeq2SeqPredCollator(PromptCollator):
    """Prompts alone, padded on the left, and what should follow them.

    Args:
        tokenizer: Whose special tokens are put in.
        block_size: How many positions a suffix has, EOS included.
        noise_schedule: Not read.
        input_block_size: The most tokens of a prompt, BOS included; a longer one is an error.
        bos_location: "after_prefix" or "before_prefix": another way to say `add_bos`.
        layout: What else `PromptCollator` takes.

    Raises:
        UnknownNameError: There is no such place for BOS.
    """

    def __init__(
        self,
        tokenizer: Any,
        block_size: int,
        noise_schedule: Any = None,
        *,
        input_block_size: int,
        bos_location: str | None = None,
        **layout: Any,
    ) -> None:
        if bos_location is not None:
            if bos_location not in _BOS_LOCATIONS:
                raise UnknownNameError("bos_location", bos_location, _BOS_LOCATIONS)
            layout["add_bos"] = _BOS_LOCATIONS[bos_location]
        super().__init__(
            tokenizer, block_size, noise_schedule, input_block_size=input_block_size, **layout
        )


class MDLMInfillPredCollator(InfillCollator):
    """Texts that have masks in them, and what belongs there if examples have it.

    Its constructor is that of `InfillCollator`.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MDLMPredictionBatch:
        """Collate examples with `input_ids`, and `target_ids` as long as these if they have any.

        Raises:
            ArgumentError: A text does not fit into the block, or its target has another length.
        """
        batch: dict[str, Tensor] = super().__call__(examples)
        if examples[0].get("target_ids") is not None:
            targets, has_target = self.fit(read_rows(examples, "target_ids"))
            if not torch.equal(has_target, batch["attention_mask"]):
                message = "a text and its target differ in length; give the same tokens in both"
                raise ArgumentError(message)
            batch["target_ids"] = targets
        return cast("MDLMPredictionBatch", batch)


__all__ = [
    "DefaultMDLMCollator",
    "MDLMEmptyDataset",
    "MDLMInfillPredCollator",
    "MDLMSeq2SeqPredCollator",
    "MDLMSeq2SeqTrainCollator",
    "print_batch_mdlm",
]
