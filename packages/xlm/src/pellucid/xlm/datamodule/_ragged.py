"""Rows of token ids, put together from pieces and copied once, into the rectangle of a batch."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from pellucid.core import ArgumentError

Side = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class Piece:
    """What every row has at one place: a slice of one array.

    Attributes:
        values: Integers, (size).
        starts: Where the slice of each row begins, int64, (batch).
        lengths: How long it is, int64, (batch).
        width: The length of all of them, where they are known to have one.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    width: int | None = None

    @staticmethod
    def of_token(token: int, n_rows: int) -> "Piece":
        """Return a piece of one token."""
        starts = np.zeros(n_rows, dtype=np.int64)
        return Piece(np.array([token]), starts, np.ones(n_rows, dtype=np.int64), 1)

    @staticmethod
    def of_rows(rows: Sequence[Sequence[int]]) -> "Piece":
        """Return a piece that holds rows given as lists."""
        values, lengths = flatten_rows(rows)
        same = len(rows) > 0 and bool((lengths == lengths[0]).all())
        return Piece(values, lengths.cumsum() - lengths, lengths, int(lengths[0]) if same else None)

    def row(self, index: int) -> list[int]:
        """Return the slice of one row."""
        start = self.starts[index]
        return self.values[start : start + self.lengths[index]].tolist()


class Ragged(Sequence[list[int]]):
    """Rows of token ids of any length. It reads as a sequence of lists, which nobody needs to make.

    Args:
        pieces: What rows consist of, from left to right; at least one.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = tuple(pieces)

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> "Ragged":
        """Hold rows; those of another `Ragged` are not copied."""
        return rows if isinstance(rows, Ragged) else Ragged([Piece.of_rows(rows)])

    def __len__(self) -> int:
        return len(self._pieces[0].starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return [token for piece in self._pieces for token in piece.row(index)]

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.__getitem__, range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens each row has, int64."""
        lengths = self._pieces[0].lengths
        for piece in self._pieces[1:]:
            lengths = lengths + piece.lengths
        return lengths

    @property
    def longest(self) -> int:
        """How many tokens the longest row has; 0 where there is none."""
        return int(self.lengths.max(initial=0))

    def between(self, before: int | None = None, after: int | None = None) -> "Ragged":
        """Return the rows with a token before and after each."""
        first, last = (
            [] if token is None else [Piece.of_token(token, len(self))] for token in (before, after)
        )
        return Ragged([*first, *self._pieces, *last])

    def followed_by(self, rows: "Ragged") -> "Ragged":
        """Return each row with another after it.

        Raises:
            ArgumentError: There are not as many.
        """
        if len(rows) != len(self):
            raise ArgumentError(f"there are {len(self)} rows and {len(rows)} to follow them")
        return Ragged([*self._pieces, *rows._pieces])

    def place(
        self, width: int, *, pad: int, pad_side: Side = "right", truncate_side: Side = "right"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lay the rows out in a rectangle.

        Args:
            width: Of the rectangle.
            pad: What stands where a row has no token.
            pad_side: On which side of a short row the padding stands.
            truncate_side: From which side of a long row tokens are taken away.

        Returns:
            The rectangle, int64; where it holds tokens; and how many of them each row has in it.
        """
        lengths, columns = self.lengths, np.arange(width)
        kept = np.minimum(lengths, width)
        begins = width - kept if pad_side == "left" else np.zeros_like(kept)
        is_token = columns >= begins[:, None] if pad_side == "left" else columns < kept[:, None]
        if truncate_side == "left":
            begins = begins + (kept - lengths)
        rectangle = np.full((len(self), width), pad, dtype=np.int64)
        for piece in self._pieces:
            _put(rectangle, piece, begins, columns)
            begins = begins + piece.lengths
        return rectangle, is_token, kept


def flatten_rows(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of all rows end to end, and the length of each row, both int64."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    flat = itertools.chain.from_iterable(rows)
    return np.fromiter(flat, dtype=np.int64, count=int(lengths.sum())), lengths


def _put(rectangle: np.ndarray, piece: Piece, begins: np.ndarray, columns: np.ndarray) -> None:
    """Write a piece into a rectangle, each row's from a column of its own on."""
    width, length = rectangle.shape[1], piece.width
    if length is not None and len(begins) and (begins == begins[0]).all():
        begin = int(begins[0])
        if 0 <= begin <= width - length:
            # A block: all rows have as many tokens, in the same columns.
            taken = piece.values[piece.starts[:, None] + columns[:length]]
            rectangle[:, begin : begin + length] = taken
            return
    within = columns - begins[:, None]
    is_here = (within >= 0) & (within < piece.lengths[:, None])
    rectangle[is_here] = piece.values[(piece.starts[:, None] + within)[is_here]]
