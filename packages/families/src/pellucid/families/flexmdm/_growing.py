"""Texts in a buffer, that masks are inserted into and tokens written over masks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.xlm.modules import TokenConstraints


@dataclass(frozen=True, eq=False)
class Growing:
    """Texts, each in consecutive columns of its row, with room for more on the right.

    What is given never changes, and nothing is inserted before a closed token: both move along with
    their tokens, so that no step has to think of them.

    Attributes:
        ids: Token ids.
        shown: Where there is text.
        given: Tokens that never change.
        closed: Tokens to the left of which nothing is inserted.
        most: How many tokens each row may have.
        mask_id: The id of the mask.
        pad_id: The id of padding.
    """

    ids: Int64[Tensor, "batch pos"]
    shown: Bool[Tensor, "batch pos"]
    given: Bool[Tensor, "batch pos"]
    closed: Bool[Tensor, "batch pos"]
    most: Int64[Tensor, " batch"]
    mask_id: int
    pad_id: int

    @classmethod
    def of(
        cls,
        batch: Mapping[str, Any],
        *,
        tokenizer: Any,
        max_new_tokens: int | None,
        max_length: int,
    ) -> "Growing":
        """Read a prediction batch, and add the columns that its rows may need.

        Args:
            batch: The batch.
            tokenizer: Its tokenizer.
            max_new_tokens: How much each row may grow; up to `max_length` tokens if None.
            max_length: The length of the longest texts that the network was trained on.
        """
        shown = batch["attention_mask"].bool()
        lengths, first = shown.sum(dim=1), shown.long().argmax(dim=1)
        is_free = max_new_tokens is None
        most = lengths.clamp(min=max_length) if is_free else lengths + max_new_tokens
        more = (0, max(int((first + most).max()) - shown.shape[1], 0))
        ids = batch["input_ids"].masked_fill(~shown, tokenizer.pad_token_id)
        given = shown & (ids != tokenizer.mask_token_id)
        return cls(
            ids=functional.pad(ids, more, value=tokenizer.pad_token_id),
            shown=functional.pad(shown, more),
            given=functional.pad(given, more),
            closed=functional.pad(batch["fixed"] & shown, more),
            most=most,
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id,
        )

    @property
    def is_mask(self) -> Bool[Tensor, "batch pos"]:
        """Where a token is to be written."""
        return self.shown & ~self.given & (self.ids == self.mask_id)

    @property
    def is_slot(self) -> Bool[Tensor, "batch pos"]:
        """To the left of which tokens something may be inserted."""
        return self.shown & ~self.closed

    @property
    def index(self) -> Int64[Tensor, "batch pos"]:
        """The place of each column within its text, whatever padding stands before that."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return columns - self._first

    @property
    def room(self) -> Int64[Tensor, " batch"]:
        """How many tokens a row can still take."""
        return self.most - self.shown.sum(dim=1)

    @property
    def width(self) -> int:
        """The columns up to the end of the longest text."""
        return int((self._first[:, 0] + self.shown.sum(dim=1)).max())

    @property
    def _first(self) -> Int64[Tensor, "batch 1"]:
        return self.shown.long().argmax(dim=1, keepdim=True)

    def keep(self, rows: Bool[Tensor, " batch"]) -> "Growing":
        """Return some of the texts."""
        names = ("ids", "shown", "given", "closed", "most")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def write(
        self,
        tokens: Int64[Tensor, "batch pos"],
        where: Bool[Tensor, "batch pos"],
        constraints: TokenConstraints,
    ) -> "Growing":
        """Return the texts with tokens written over masks."""
        own = constraints.with_frozen(~self.is_mask)
        return replace(self, ids=own.write(self.ids, tokens, where))

    def insert(self, counts: Int64[Tensor, "batch pos"]) -> "Growing":
        """Return the texts with masks inserted.

        Args:
            counts: How many, to the left of each slot; not more than there is room.
        """
        n_pos = self.ids.shape[1]
        columns = torch.arange(n_pos, device=self.ids.device)
        # Padding goes to a column that is cut off.
        place = torch.where(self.shown, columns + counts.cumsum(dim=1), n_pos)
        n_shown = self.shown.sum(dim=1, keepdim=True) + counts.sum(dim=1, keepdim=True)
        shown = (columns >= self._first) & (columns < self._first + n_shown)

        def move(values: Tensor, empty: int | bool) -> Tensor:
            moved = values.new_full((len(values), n_pos + 1), empty)
            return moved.scatter(1, place, values)[:, :n_pos]

        return replace(
            self,
            ids=move(self.ids, self.mask_id).masked_fill(~shown, self.pad_id),
            shown=shown,
            given=move(self.given, False),
            closed=move(self.closed, False),
        )
