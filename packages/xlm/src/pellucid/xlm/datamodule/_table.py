"""Rows of a dataset, held as a few flat arrays: quick to select, to save, and to map from disk."""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from pellucid.core import ArgumentError, CheckpointError
from pellucid.xlm.datamodule._ragged import Piece, Ragged, flatten_rows

_META = "table.json"
_FORMAT = 1


@dataclass(frozen=True)
class Column:
    """One field of every row.

    Attributes:
        values: The rows end to end: token ids, or bytes of JSON.
        offsets: Where each row begins, and where the last one ends, int64.
        kind: "ids" for lists of integers, "json" for anything else.
    """

    values: np.ndarray
    offsets: np.ndarray
    kind: Literal["ids", "json"]

    @staticmethod
    def of(cells: Sequence[Any]) -> "Column":
        """Hold one cell per row, integers if every cell is a list of them."""
        if _are_ids(cells):
            values, lengths = flatten_rows(cells)
            low, high = values.min(initial=0), values.max(initial=0)
            if low >= -(2**31) and high < 2**31:
                values = values.astype(np.int32)
            return Column(values, _offsets(lengths), "ids")
        lines = [json.dumps(cell).encode() for cell in cells]
        lengths = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
        return Column(np.frombuffer(b"".join(lines), dtype=np.uint8), _offsets(lengths), "json")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @functools.cached_property
    def width(self) -> int | None:
        """The length of every cell, where all have the same."""
        lengths = np.diff(self.offsets)
        return int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else None

    def ragged(self, rows: np.ndarray) -> Ragged:
        """Return the cells of some rows, which are no copies; for lists of integers."""
        starts = self.offsets[rows]
        return Ragged([Piece(self.values, starts, self.offsets[rows + 1] - starts, self.width)])

    def cells(self, rows: np.ndarray) -> Iterator[Any]:
        """Yield the cells of some rows, as they were given."""
        starts, ends = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        for start, end in zip(starts, ends, strict=True):
            piece = self.values[start:end]
            yield piece.tolist() if self.kind == "ids" else json.loads(piece.tobytes())

    def take(self, rows: np.ndarray) -> "Column":
        """Return the column of some rows only."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = _offsets(lengths)
        shift = np.repeat(starts - offsets[:-1], lengths)
        return Column(self.values[np.arange(offsets[-1]) + shift], offsets, self.kind)


class Table:
    """Rows with the same fields.

    Args:
        columns: Name to column, all with as many rows.

    Raises:
        ArgumentError: The columns have different numbers of rows, or there is none.
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ArgumentError(f"columns need one number of rows, and have {lengths!r}")
        self.columns = dict(columns)
        self.n_rows: int | None = next(iter(lengths.values()))

    @staticmethod
    def of(columns: Mapping[str, Sequence[Any]]) -> "Table":
        """Hold columns given as lists, one entry per row."""
        return Table({name: Column.of(cells) for name, cells in columns.items()})

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.columns)

    def __len__(self) -> int:
        return self.n_rows or 0

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return some rows, each a new dictionary."""
        wanted = np.asarray(indices, dtype=np.int64)
        cells = [column.cells(wanted) for column in self.columns.values()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*cells, strict=True)]

    def select(self, indices: Sequence[int] | np.ndarray) -> "Selection":
        """Return some rows, of which collators can read whole columns."""
        return Selection(self, np.asarray(indices, dtype=np.int64))

    def to_columns(self) -> dict[str, list[Any]]:
        """Return all rows, a list for each column."""
        every = np.arange(len(self))
        return {name: list(column.cells(every)) for name, column in self.columns.items()}

    def take(self, rows: np.ndarray) -> "Table":
        """Return the table of some rows only."""
        return Table({name: column.take(rows) for name, column in self.columns.items()})

    def rename(self, names: Mapping[str, str]) -> "Table":
        """Return the table with other names for some columns."""
        return Table({names.get(name, name): held for name, held in self.columns.items()})

    def save(self, directory: Path) -> None:
        """Write the table into a directory that exists."""
        described: dict[str, Any] = {"format": _FORMAT, "rows": len(self), "columns": []}
        for number, (name, column) in enumerate(self.columns.items()):
            np.save(directory / f"{number}.values.npy", column.values)
            np.save(directory / f"{number}.offsets.npy", column.offsets)
            described["columns"].append({"name": name, "kind": column.kind})
        (directory / _META).write_text(json.dumps(described), encoding="utf-8")

    @staticmethod
    def load(directory: Path) -> "Table":
        """Map a table from disk; rows are read when they are asked for.

        Raises:
            CheckpointError: There is none, or it is not whole.
        """
        try:
            described = json.loads((directory / _META).read_text(encoding="utf-8"))
            columns = {
                entry["name"]: _load_column(directory, number, entry["kind"])
                for number, entry in enumerate(described["columns"])
            }
            table = Table(columns)
            if described["format"] != _FORMAT or described["rows"] != len(table):
                raise ArgumentError("it was written by another version, or is cut short")
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the table in {str(directory)!r} cannot be read ({error}); delete it, and it is "
                "made anew"
            ) from error
        return table


class Selection(Sequence[dict[str, Any]]):
    """Rows of a table. They read as a list of dictionaries, which is made when it is asked for.

    Args:
        table: Whose rows.
        indices: Which of them, int64, (batch).
    """

    def __init__(self, table: Table, indices: np.ndarray) -> None:
        self._table = table
        self._indices = indices

    @functools.cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self._table.rows(self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._rows[index]

    def ids(self, *names: str) -> Ragged | None:
        """Return the first column there is of some names; None if it holds no lists of integers."""
        held = (self._table.columns[name] for name in names if name in self._table.columns)
        column = next(held, None)
        if column is None or column.kind != "ids":
            return None
        return column.ragged(self._indices)


def _load_column(directory: Path, number: int, kind: Literal["ids", "json"]) -> Column:
    offsets = np.load(directory / f"{number}.offsets.npy")
    # An empty file cannot be mapped.
    mode = "r" if offsets[-1] else None
    values = np.load(directory / f"{number}.values.npy", mmap_mode=mode)
    # To slice a mapped array takes far longer than to slice a plain view of it.
    column = Column(np.asarray(values).view(np.ndarray), offsets, kind)
    if len(column.values) != column.offsets[-1]:
        raise ArgumentError(f"column {number} is cut short")
    return column


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _are_ids(cells: Sequence[Any]) -> bool:
    """Say whether every cell is a list, or an array, of integers."""
    kinds = set(map(type, cells))
    if kinds <= {list}:
        return set(map(type, itertools.chain.from_iterable(cells))) <= {int}
    return kinds <= {np.ndarray} and all(
        cell.ndim == 1 and np.issubdtype(cell.dtype, np.integer) for cell in cells
    )
