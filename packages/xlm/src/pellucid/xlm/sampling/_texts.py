"""Texts with gaps: what a sampler is given, what a network reads of them, what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.xlm.modules import positions_of


class FillBatch(TypedDict):
    """What predictors are given that fill masks.

    Attributes:
        input_ids: Prompts, padded on the left, or texts with masks in them.
        attention_mask: False on what is hidden from the network.
        target_ids: What should be written: after the prompt, or instead of the whole text.
        fixed_positions_mask: True where the input is given and never changes; everything but masks
            if absent.
        positions: Where each token stands in its text; counted if absent.
        row_ids: The number of each row in its dataset; counted from 0 if absent.
        row_seed: The seed of the dataset's random numbers; see `RowStreams.of`.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: NotRequired[Bool[Tensor, "batch pos"]]
    target_ids: NotRequired[Int64[Tensor, "batch target_pos"] | None]
    fixed_positions_mask: NotRequired[Bool[Tensor, "batch pos"]]
    positions: NotRequired[Int64[Tensor, "batch pos"]]
    row_ids: NotRequired[Int64[Tensor, " batch"]]
    row_seed: NotRequired[int]


class FilledDict(TypedDict):
    """What predictors return that fill masks; `PromptedPredictor.describe` makes it.

    Attributes:
        text: What was written in each row, up to its first EOS, without special tokens.
        ids: The whole of each row.
        output_start_idx: The column in which what was asked for begins.
        time_taken: Seconds until each row was finished.
        steps_taken: Network evaluations that each row took part in.
        loss: Always None; here so that records of all families look alike.
    """

    text: list[str]
    ids: Int64[Tensor, "batch pos"]
    output_start_idx: int
    time_taken: list[float]
    steps_taken: list[int]
    loss: None


@dataclass(frozen=True, eq=False, kw_only=True)
class Texts:
    """Texts that are to be filled.

    Attributes:
        ids: Token ids, the mask's at open positions.
        shown: False on what is hidden from the network, such as padding.
        positions: Where each token stands, as the network is told.
        is_open: The positions to fill; all others never change.
        start: The column in which what was asked for begins; 0 if the whole text was.
        mask_id: The id of the mask.
        pad_id: The id of padding.
    """

    ids: Int64[Tensor, "batch pos"]
    shown: Bool[Tensor, "batch pos"]
    positions: Int64[Tensor, "batch pos"]
    is_open: Bool[Tensor, "batch pos"]
    start: int
    mask_id: int
    pad_id: int

    @classmethod
    def of(
        cls, batch: Mapping[str, Any], *, tokenizer: Any, max_new_tokens: int | None = None
    ) -> "Texts":
        """Read a prediction batch.

        Args:
            batch: `input_ids`; and, where it has them, `attention_mask` (nothing is hidden if
                absent), `fixed_positions_mask` (positions that never change; masks are open if
                absent) and `positions` (counted if absent), all (batch, pos).
            tokenizer: Whose mask and padding are meant.
            max_new_tokens: How many masks to put after each row; None to fill those that are there.
        """
        ids, more = batch["input_ids"], (0, max_new_tokens or 0)
        mask_id = tokenizer.mask_token_id
        shown = batch.get("attention_mask")
        shown = torch.ones_like(ids, dtype=torch.bool) if shown is None else shown.bool()
        is_open = (ids == mask_id) & shown
        fixed = batch.get("fixed_positions_mask")
        if fixed is not None:
            is_open = is_open & ~fixed.bool()
        shown = functional.pad(shown, more, value=True)
        positions = batch.get("positions")
        return cls(
            ids=functional.pad(ids, more, value=mask_id),
            shown=shown,
            positions=positions_of(shown) if positions is None or more[1] else positions,
            is_open=functional.pad(is_open, more, value=True),
            start=ids.shape[1] if max_new_tokens else 0,
            mask_id=mask_id,
            pad_id=tokenizer.pad_token_id,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Reading:
    """What a network is to read in one step: the rows that are read, and no others.

    Attributes:
        ids: Token ids as they are now.
        shown: False on what is hidden from the network.
        positions: Where each token stands.
        where: The positions whose logits are wanted; at least one in each row.
        rows: The places of these rows in the batch, ascending.
        step: Which step this is, from 0.
        steps_left: How many there are at most, this one included.
    """

    ids: Int64[Tensor, "batch pos"]
    shown: Bool[Tensor, "batch pos"]
    positions: Int64[Tensor, "batch pos"]
    where: Bool[Tensor, "batch pos"]
    rows: Int64[Tensor, " batch"]
    step: int
    steps_left: int


@dataclass(frozen=True, eq=False)
class Filled:
    """Texts without gaps.

    Attributes:
        ids: Token ids.
        steps: How often the network read each row.
        seconds: Time until each row was finished.
    """

    ids: Int64[Tensor, "batch pos"]
    steps: list[int]
    seconds: list[float]
