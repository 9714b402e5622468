"""From examples to rows of token ids: filter, preprocess, select, and keep what was made."""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import ID_FIELDS, Columns, apply_to_columns
from pellucid.xlm.datamodule._cache import cache_key, cached_table, tokenizer_fingerprint
from pellucid.xlm.datamodule._raw import GeneratedDataset, RawDataset
from pellucid.xlm.datamodule._rows import BlockRows
from pellucid.xlm.datamodule._table import Table

CHUNK_ROWS = 1024
"""Examples of a stream that are preprocessed, and grouped, together."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is done to a dataset before training; all of it is part of the cache key.

    Attributes:
        preprocess: Called as `preprocess(example, tokenizer, **preprocess_kwargs)`; None for
            datasets that hold ids already.
        preprocess_kwargs: Its settings.
        filter_fn: Which examples stay.
        keep: Columns that stay; all if None.
        remove: Columns that go.
        holdout: `{"size": 0.1, "seed": 42, "split": "test"}`: which part of a random division.
    """

    preprocess: Callable[..., Any] | None = None
    preprocess_kwargs: Mapping[str, Any] = field(default_factory=dict)
    filter_fn: Callable[..., Any] | None = None
    keep: Sequence[str] | None = None
    remove: Sequence[str] = ()
    holdout: Mapping[str, Any] | None = None

    def key(self, raw: RawDataset, tokenizer: Any) -> str:
        """Return the digest of everything that the prepared rows follow from."""
        return cache_key(
            raw=raw.describe(),
            tokenizer=tokenizer_fingerprint(tokenizer),
            preprocess=self.preprocess,
            preprocess_kwargs=dict(self.preprocess_kwargs),
            filter_fn=self.filter_fn,
            keep=self.keep,
            remove=list(self.remove),
            holdout=self.holdout,
        )

    def table(
        self,
        raw: RawDataset,
        tokenizer: Any,
        *,
        cache_dir: Path | None = None,
        name: str = "",
        rewrite: bool = False,
    ) -> Table:
        """Return the prepared rows, from the cache if they are there.

        Args:
            raw: The dataset.
            tokenizer: Handed to `preprocess`.
            cache_dir: Where prepared tables lie; None for none.
            name: Of the table's directory, for people; the key is added.
            rewrite: Prepare it anew.
        """

        def make() -> Table:
            return Table.of(self.apply(raw.columns(), tokenizer))

        if cache_dir is None:
            return make()
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:64]
        directory = Path(cache_dir) / f"{slug}-{self.key(raw, tokenizer)}"
        return cached_table(directory, make, rewrite=rewrite)

    def apply(self, columns: Columns, tokenizer: Any) -> Columns:
        """Prepare examples; the fields of ids get the names that collators read.

        Raises:
            ArgumentError: No example is left.
        """
        columns = self._select(self._hold_out(columns))
        if self.preprocess is not None:
            columns = apply_to_columns(
                self.preprocess, columns, tokenizer, **self.preprocess_kwargs
            )
        unknown = [name for name in self.keep or () if name not in columns]
        if unknown:
            raise UnknownNameError("column", unknown[0], columns)
        kept = [
            name
            for name in columns
            if (self.keep is None or name in self.keep) and name not in self.remove
        ]
        if not kept:
            raise ArgumentError(f"none of the columns {sorted(columns)!r} is kept")
        return {ID_FIELDS.get(name, name): columns[name] for name in kept}

    def blocks(self, raw: GeneratedDataset, tokenizer: Any) -> BlockRows:
        """Return the rows of a generated stream.

        Raises:
            ArgumentError: Some are filtered out, so that blocks would differ in length.
        """
        if self.filter_fn is not None or self.holdout is not None:
            raise ArgumentError(
                "a generated stream cannot be filtered or divided; leave out filter_fn and "
                "train_test_split, or stream=true"
            )
        return BlockRows(_Blocks(self, raw, tokenizer), block_rows=CHUNK_ROWS)

    def chunks(self, raw: RawDataset, tokenizer: Any) -> Iterator[Columns]:
        """Prepare examples as they are read, many at a time."""
        rows = raw.open_rows()
        while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
            columns = {name: [row[name] for row in chunk] for name in chunk[0]}
            yield self.apply(columns, tokenizer)

    def _select(self, columns: Columns) -> Columns:
        if self.filter_fn is None:
            return columns
        rows = [
            number
            for number, cells in enumerate(zip(*columns.values(), strict=True))
            if self.filter_fn(dict(zip(columns, cells, strict=True)))
        ]
        return {name: [held[row] for row in rows] for name, held in columns.items()}

    def _hold_out(self, columns: Columns) -> Columns:
        if self.holdout is None:
            return columns
        n_rows = len(next(iter(columns.values())))
        size, seed = self.holdout.get("size", 0.1), self.holdout.get("seed", 42)
        n_test = round(size * n_rows) if isinstance(size, float) else size
        split = self.holdout.get("split", "train")
        if split not in ("train", "test"):
            raise UnknownNameError("split of train_test_split", split, ("train", "test"))
        if not 0 < n_test < n_rows:
            raise ArgumentError(f"size {size!r} of {n_rows} examples leaves a part with none")
        order = np.random.default_rng(seed).permutation(n_rows)
        rows = np.sort(order[:n_test] if split == "test" else order[n_test:]).tolist()
        return {name: [held[row] for row in rows] for name, held in columns.items()}


@dataclass(frozen=True)
class _Blocks:
    """Makes the blocks of a generated stream, also in another process."""

    preparation: Preparation
    raw: GeneratedDataset
    tokenizer: Any

    def __call__(self, number: int) -> Table:
        columns = self.raw.source.block(number, CHUNK_ROWS)
        return Table.of(self.preparation.apply(columns, self.tokenizer))


def takes(function: Callable[..., Any], name: str) -> bool:
    """Say whether a function has a parameter of a name."""
    return name in inspect.signature(function).parameters
