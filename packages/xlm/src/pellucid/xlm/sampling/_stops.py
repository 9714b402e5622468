"""When a text has ended before all of it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import ArgumentError


@runtime_checkable
class StopRule(Protocol):
    """Says where texts end.

    What stands at and after the end is padding, and the row is finished when all before it is
    filled. Of several rules, the one whose end comes first ends a text.
    """

    @property
    def force_fill_max(self) -> int:
        """With at most so many gaps before the end, all of them are filled in the next step.

        That counts where the rule ends the text, and not where another one ends it earlier.
        """
        ...

    def ends(
        self, ids: Int64[Tensor, "batch pos"], is_text: Bool[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return the column after the last one of each text, or the width where it goes on.

        Args:
            ids: Token ids, the mask's in gaps.
            is_text: The positions that were to be filled; no text ends before them.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StopAtToken:
    """A text ends with the first token of a kind, such as EOS.

    Attributes:
        token_id: The token.
        force_fill_max: See `StopRule`.
    """

    token_id: int
    force_fill_max: int = 0

    def ends(
        self, ids: Int64[Tensor, "batch pos"], is_text: Bool[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return the column after it."""
        is_end = (ids == self.token_id) & is_text
        return torch.where(is_end.any(dim=1), is_end.long().argmax(dim=1) + 1, ids.shape[1])


@dataclass(frozen=True, kw_only=True)
class StopAtStrings:
    """A text ends where one of some strings is complete.

    A gap is decoded as the mask's own text, so no string is found across one.

    Attributes:
        strings: Any of them ends the text.
        decode: Ids to text, special tokens included.
        force_fill_max: See `StopRule`.
    """

    strings: Sequence[str]
    decode: Callable[[list[int]], str]
    force_fill_max: int = 0

    def __post_init__(self) -> None:
        if not self.strings or "" in self.strings:
            raise ArgumentError(f"strings are {self.strings!r}; give some that are not empty")

    def ends(
        self, ids: Int64[Tensor, "batch pos"], is_text: Bool[Tensor, "batch pos"]
    ) -> Int64[Tensor, " batch"]:
        """Return the column after the token with which the first string is complete."""
        starts = is_text.long().argmax(dim=1).tolist()
        ends = [
            start + self._length(row[start:])
            for row, start in zip(ids.tolist(), starts, strict=True)
        ]
        return torch.tensor(ends, device=ids.device)

    def _length(self, row: list[int]) -> int:
        """Return how many tokens it takes until a string is complete; all if none is."""
        if not self._has_string(row):
            return len(row)
        # Once complete a string stays so, whatever follows.
        least, most = 1, len(row)
        while least < most:
            middle = (least + most) // 2
            if self._has_string(row[:middle]):
                most = middle
            else:
                least = middle + 1
        return most

    def _has_string(self, row: list[int]) -> bool:
        text = self.decode(row)
        return any(string in text for string in self.strings)
