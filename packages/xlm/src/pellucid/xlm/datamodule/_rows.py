"""Where the rows of a loader come from: a table, blocks made on demand, or a stream read once."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pellucid.core import ArgumentError
from pellucid.xlm._addresses import seed_at
from pellucid.xlm.datamodule._table import Table

_HELD_BLOCKS = 4


@runtime_checkable
class RowSource(Protocol):
    """Rows by number. A `Table` is one.

    Attributes:
        n_rows: How many there are; None if they do not end, or nobody knows.
    """

    n_rows: int | None

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return some rows, each a new dictionary; fewer where the rows have come to an end."""
        ...


class BlockRows:
    """Rows that are made in blocks, without end, each time from the number of the block alone.

    Args:
        make: Makes the block of a number; all blocks have `block_rows` rows.
        block_rows: Rows of a block.
    """

    n_rows: int | None = None

    def __init__(self, make: Callable[[int], Table], *, block_rows: int) -> None:
        self._make = make
        self._block_rows = block_rows
        self._held: dict[int, Table] = {}

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return some rows."""
        wanted = np.asarray(indices, dtype=np.int64)
        numbers, within = np.divmod(wanted, self._block_rows)
        made: list[dict[str, Any]] = []
        # Indices ascend, so those of one block stand together.
        for number in np.unique(numbers).tolist():
            made += self._block(number).rows(within[numbers == number])
        return made

    def select(self, indices: Sequence[int] | np.ndarray) -> Sequence[dict[str, Any]]:
        """Return some rows, of which collators can read whole columns if one block has them all."""
        wanted = np.asarray(indices, dtype=np.int64)
        number = int(wanted[0]) // self._block_rows if len(wanted) else 0
        within = wanted - number * self._block_rows
        if not len(wanted) or within.min() < 0 or within.max() >= self._block_rows:
            return self.rows(wanted)
        return self._block(number).select(within)

    def _block(self, number: int) -> Table:
        if number not in self._held:
            while len(self._held) >= _HELD_BLOCKS:
                del self._held[next(iter(self._held))]
            self._held[number] = self._make(number)
        return self._held[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": {}}


class ForwardRows:
    """Rows that can only be read from the beginning on, such as those of a remote dataset.

    To go on from the middle, the rows before it are read and thrown away.

    Args:
        open_rows: Starts to read from the beginning.
        shuffle_buffer_size: Rows that are shuffled among themselves; 1 for no shuffling. The
            stream is cut into buffers one after another, so that the order follows from the seed.
        seed: Of the shuffling.
    """

    n_rows: int | None = None

    def __init__(
        self,
        open_rows: Callable[[], Iterator[Mapping[str, Any]]],
        *,
        shuffle_buffer_size: int = 1,
        seed: int = 0,
    ) -> None:
        if shuffle_buffer_size < 1:
            raise ArgumentError(
                f"shuffle_buffer_size is {shuffle_buffer_size!r}; a buffer holds at least one row"
            )
        self._open_rows = open_rows
        self._buffer_size = shuffle_buffer_size
        self._seed = seed
        self._iterator: Iterator[Mapping[str, Any]] | None = None
        self._next = 0
        self._buffers: dict[int, list[dict[str, Any]]] = {}

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return some rows, as many of them as the stream has."""
        places = [divmod(int(index), self._buffer_size) for index in indices]
        found: list[dict[str, Any]] = []
        for number, within in places:
            buffer = self._buffer(number)
            if within < len(buffer):
                found.append(dict(buffer[within]))
        return found

    def _buffer(self, number: int) -> list[dict[str, Any]]:
        held = self._buffers.get(number)
        if held is None:
            if self._iterator is None or number < self._next:
                self._iterator, self._next = self._open_rows(), 0
            skipped = (number - self._next) * self._buffer_size
            read = itertools.islice(self._iterator, skipped, skipped + self._buffer_size)
            held = self._shuffled([dict(row) for row in read], number)
            self._next = number + 1
            # The buffer before is held too: a batch may begin in it.
            self._buffers = {n: rows for n, rows in self._buffers.items() if n == number - 1}
            self._buffers[number] = held
        return held

    def _shuffled(self, rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
        if self._buffer_size == 1:
            return rows
        rng = np.random.default_rng(seed_at(self._seed, "buffer", number))
        return [rows[index] for index in rng.permutation(len(rows)).tolist()]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_iterator": None, "_next": 0, "_buffers": {}}


class ProcessedRows:
    """Rows of another source, each changed as it is read.

    Args:
        source: Where the rows come from.
        process: Called on each row.
    """

    def __init__(
        self, source: RowSource, process: Callable[[dict[str, Any]], Mapping[str, Any]]
    ) -> None:
        self.n_rows: int | None = source.n_rows
        self._source = source
        self._process = process

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return some rows."""
        return [dict(self._process(row)) for row in self._source.rows(indices)]


def process_with(
    function: Callable[..., Any], tokenizer: Any, kwargs: Mapping[str, Any]
) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """Return a processor that is called with the tokenizer and its settings."""
    return functools.partial(_process, function=function, tokenizer=tokenizer, kwargs=dict(kwargs))


def _process(
    row: dict[str, Any], *, function: Callable[..., Any], tokenizer: Any, kwargs: dict[str, Any]
) -> Mapping[str, Any]:
    return function(row, tokenizer, **kwargs)
