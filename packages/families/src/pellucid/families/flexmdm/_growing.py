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
        mask_id: The id of the mask.
        pad_id: The id of padding.
    """

    ids: Int64[Tensor, "batch pos"]
    shown: Bool[Tensor, "batch pos"]
    given: Bool[Tensor, "batch pos"]
    closed: Bool[Tensor, "batch pos"]
    mask_id: int
    pad_id: int

    @classmethod
    def of(cls, batch: Mapping[str, Any], *, tokenizer: Any, max_new_tokens: int) -> "Growing":
        """Read a prediction batch, and add columns to it."""
        shown, more = batch["attention_mask"].bool(), (0, max_new_tokens)
        ids = batch["input_ids"].masked_fill(~shown, tokenizer.pad_token_id)
        given = shown & (ids != tokenizer.mask_token_id)
        return cls(
            ids=functional.pad(ids, more, value=tokenizer.pad_token_id),
            shown=functional.pad(shown, more),
            given=functional.pad(given, more),
            closed=functional.pad(batch["fixed"] & shown, more),
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
        return self.ids.shape[1] - self._first[:, 0] - self.shown.sum(dim=1)

    @property
    def width(self) -> int:
        """The columns up to the end of the longest text."""
        return int((self._first[:, 0] + self.shown.sum(dim=1)).max())

    @property
    def _first(self) -> Int64[Tensor, "batch 1"]:
        return self.shown.long().argmax(dim=1, keepdim=True)

    def keep(self, rows: Bool[Tensor, " batch"]) -> "Growing":
        """Return some of the texts."""
        held = {name: getattr(self, name)[rows] for name in ("ids", "shown", "given", "closed")}
        return replace(self, **held)

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
