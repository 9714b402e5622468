"""One dataset of one split, from its name to its loader."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import resolve_callable
from pellucid.xlm.contracts import LoaderKind
from pellucid.xlm.datamodule._loader import BatchLoader
from pellucid.xlm.datamodule._plan import BatchPlan
from pellucid.xlm.datamodule._preparation import Preparation, takes
from pellucid.xlm.datamodule._raw import GeneratedDataset, RawDataset, open_dataset
from pellucid.xlm.datamodule._rows import ForwardRows, ProcessedRows, RowSource, process_with
from pellucid.xlm.datamodule._table import Table

Split = Literal["train", "val", "test", "predict"]

_LOADER_KEYS = (
    "batch_size",
    "drop_last",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "shuffle",
)
_STAGES = ("fit", "validate", "test", "predict")


class DatasetManager:
    """Prepares a dataset, keeps what it prepared, and makes its loaders.

    A function may be given by its dotted name.

    Args:
        collator: Makes batches of rows.
        full_name: `local://star?level=easy&split=train`, the path of a .csv, .jsonl or .txt file,
            or `repo/name/split` or `repo/name/config/split` of the library `datasets`.
        full_name_debug: What to read instead in a run that overfits; `full_name` if None.
        kind: Whether batches go to the loss or to the predictor; follows from the loader's name
            if None.
        dataloader_kwargs: `batch_size` (1), `shuffle` (True for training), `num_workers` (0),
            `drop_last`, `pin_memory`, `prefetch_factor` and `persistent_workers`.
        filter_fn: Says of an example, before it is preprocessed, whether it stays.
        filter_suffix: Added to the name of the cached table, for people.
        preprocess_function: Makes ids of an example; that of the source if None, for `local://`.
        preprocess_function_kwargs: Its settings.
        on_the_fly_filter_fn: Says of a prepared row whether it stays; not cached.
        on_the_fly_processor: Changes a row each time it is read, as `f(row, tokenizer, **kwargs)`.
        on_the_fly_processor_kwargs: Its settings.
        on_the_fly_group_processor: Makes new rows of all rows, such as `pack_sequences`; of each
            thousand of a stream.
        on_the_fly_group_processor_kwargs: Its settings; `block_size` is the data module's.
        columns_to_keep: Of the prepared columns; all if None.
        columns_to_remove: Of the prepared columns.
        stages: Of "fit", "validate", "test" and "predict"; those of its split if None.
        iterable_dataset_shards: Read the dataset as a stream, rather than whole, unless None.
        shuffle_buffer_size: Rows of a stream that are shuffled among themselves; 1 for none.
        shuffle_seed: Of the order, and of the noise that the collator draws.
        split_by_node: Give each process its part; otherwise all read everything.
        rewrite_manual_cache: Prepare the dataset even if that was done before.
        use_manual_cache: Keep what was prepared.
        train_test_split: `{"size": 0.1, "seed": 42, "split": "train"}`, for datasets of one split.
        make_infinite: Go over the rows again and again in one pass.

    Raises:
        ArgumentError: Settings are unknown, or exclude each other.
    """

    def __init__(
        self,
        collator: Callable[[list[dict[str, Any]]], Any],
        full_name: str,
        full_name_debug: str | None = None,
        *,
        kind: LoaderKind | None = None,
        dataloader_kwargs: Mapping[str, Any] | None = None,
        filter_fn: Callable[..., Any] | str | None = None,
        filter_suffix: str | None = None,
        preprocess_function: Callable[..., Any] | str | None = None,
        preprocess_function_kwargs: Mapping[str, Any] | None = None,
        on_the_fly_filter_fn: Callable[..., Any] | str | None = None,
        on_the_fly_processor: Callable[..., Any] | str | None = None,
        on_the_fly_processor_kwargs: Mapping[str, Any] | None = None,
        on_the_fly_group_processor: Callable[..., Any] | str | None = None,
        on_the_fly_group_processor_kwargs: Mapping[str, Any] | None = None,
        columns_to_keep: Sequence[str] | None = None,
        columns_to_remove: Sequence[str] | None = None,
        stages: Sequence[str] | None = None,
        iterable_dataset_shards: int | None = None,
        shuffle_buffer_size: int = 1,
        shuffle_seed: int = 42,
        split_by_node: bool = True,
        rewrite_manual_cache: bool = False,
        use_manual_cache: bool = True,
        train_test_split: Mapping[str, Any] | None = None,
        make_infinite: bool = False,
    ) -> None:
        self.collator = collator
        self.full_name = full_name
        self.full_name_debug = full_name_debug
        if kind not in (None, *get_args(LoaderKind)):
            raise UnknownNameError("kind of loader", str(kind), get_args(LoaderKind))
        self.kind: LoaderKind | None = kind
        self.dataloader_kwargs = _known(dataloader_kwargs, _LOADER_KEYS, "dataloader setting")
        self.stages = None if stages is None else [_stage(stage) for stage in stages]
        self._preparation = Preparation(
            preprocess=resolve_callable(preprocess_function),
            preprocess_kwargs=dict(preprocess_function_kwargs or {}),
            filter_fn=resolve_callable(filter_fn),
            keep=None if columns_to_keep is None else list(columns_to_keep),
            remove=list(columns_to_remove or ()),
            holdout=None if train_test_split is None else dict(train_test_split),
        )
        self._filter_suffix = filter_suffix
        self._filter = resolve_callable(on_the_fly_filter_fn)
        self._processor = resolve_callable(on_the_fly_processor)
        self._processor_kwargs = dict(on_the_fly_processor_kwargs or {})
        self._grouper = resolve_callable(on_the_fly_group_processor)
        self._grouper_kwargs = dict(on_the_fly_group_processor_kwargs or {})
        self._is_stream = iterable_dataset_shards is not None
        self._shuffle_buffer_size = shuffle_buffer_size
        self._seed = shuffle_seed
        self._split_by_node = split_by_node
        self._rewrite = rewrite_manual_cache
        self._use_cache = use_manual_cache
        self._make_infinite = make_infinite
        self._rows: RowSource | None = None
        self._key: str | None = None
        self._loaders: list[BatchLoader] = []
        self._debug = False

    # ---- preparation ------------------------------------------------------------------------

    def prepare_data(
        self,
        manual_cache_dir: str | Path | None,
        tokenizer: Any,
        *,
        num_proc: int | None = None,
        rewrite: bool = False,
        debug: bool = False,
    ) -> None:
        """Prepare the dataset and keep it; done by one process, before the others look.

        Args:
            manual_cache_dir: Where prepared tables lie; None to keep nothing.
            tokenizer: Handed to the preprocess function.
            num_proc: Processes that read a dataset of the hub.
            rewrite: Prepare it even if that was done before.
            debug: Read what `full_name_debug` says.
        """
        raw = self.open_raw(tokenizer, debug=debug, num_proc=num_proc)
        if manual_cache_dir is not None and self._use_cache and not self._streams(raw):
            self._table(
                raw, tokenizer, Path(manual_cache_dir), debug, rewrite=rewrite or self._rewrite
            )

    def setup(
        self,
        stage: str,
        manual_cache_dir: str | Path | None = None,
        tokenizer: Any = None,
        *,
        block_size: int | None = None,
        num_proc: int | None = None,
        debug: bool = False,
    ) -> None:
        """Open the rows, in every process; does nothing in a stage that is not among `stages`.

        Args:
            stage: "fit", "validate", "test" or "predict".
            manual_cache_dir: As for `prepare_data`.
            tokenizer: As for `prepare_data`.
            block_size: For a group processor that asks for one.
            num_proc: As for `prepare_data`.
            debug: Read what `full_name_debug` says, in its own order.
        """
        if self._rows is not None or (self.stages is not None and _stage(stage) not in self.stages):
            return
        self._debug = debug
        raw = self.open_raw(tokenizer, debug=debug, num_proc=num_proc)
        cache_dir = Path(manual_cache_dir) if manual_cache_dir and self._use_cache else None
        rows = self._open_rows(raw, tokenizer, cache_dir, block_size)
        if self._processor is not None:
            process = process_with(self._processor, tokenizer, self._processor_kwargs)
            rows = ProcessedRows(rows, process)
        self._key = self.preparation_of(raw).key(raw, tokenizer)
        self._rows = rows

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the rows, for a run's manifest; after `setup`."""
        return {
            "full_name": self._name(debug=self._debug),
            "key": self._key,
            "rows": None if self._rows is None else self._rows.n_rows,
            "seed": self._seed,
        }

    # ---- loading ----------------------------------------------------------------------------

    def get_dataloader(
        self, type: Split, is_ddp: bool = False, rank: int = 0, world_size: int = 1
    ) -> BatchLoader:
        """Return a new loader of the rows.

        Args:
            type: "train" is shuffled, and all ranks get as many rows; in the others each row
                stands once, and batches hold its number as `row_ids`, (batch,).
            is_ddp: Whether several processes share the rows.
            rank: Of this process.
            world_size: How many processes there are.

        Raises:
            ArgumentError: The rows were not set up, or do not fill a batch.
        """
        if self._rows is None:
            raise ArgumentError(
                f"{self._name(debug=self._debug)!r} is not set up; call setup first, with a stage "
                f"that its loader is for ({self.stages or 'any'})"
            )
        given = dict(self.dataloader_kwargs)
        n_rows = self._rows.n_rows
        is_train = type == "train"
        default = is_train and n_rows is not None and not self._debug
        shuffle = given.pop("shuffle", None)
        is_shared = is_ddp and self._split_by_node
        plan = BatchPlan(
            n_rows=n_rows,
            batch_size=given.pop("batch_size", 1),
            shuffle=default if shuffle is None else bool(shuffle) and not self._debug,
            seed=self._seed,
            drop_last=bool(given.pop("drop_last", False)),
            even=is_train,
            rank=rank if is_shared else 0,
            world_size=world_size if is_shared else 1,
        )
        loader = BatchLoader(
            self._rows,
            plan,
            self.collator,
            cyclic=is_train and self._make_infinite,
            fixed_epoch=not is_train,
            with_row_ids=not is_train,
            **given,
        )
        self._loaders = [*self._loaders[-1:], loader]
        return loader

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass of the loaders that of an epoch."""
        for loader in self._loaders:
            loader.set_epoch(epoch)

    # ---- how rows are made ------------------------------------------------------------------

    def _name(self, *, debug: bool) -> str:
        return self.full_name_debug if debug and self.full_name_debug else self.full_name

    def open_raw(self, tokenizer: Any, *, debug: bool, num_proc: int | None) -> RawDataset:
        """Return the examples before they are preprocessed."""
        del tokenizer
        return open_dataset(self._name(debug=debug), num_proc=num_proc)

    def _streams(self, raw: RawDataset) -> bool:
        return self._is_stream or (isinstance(raw, GeneratedDataset) and raw.source.stream)

    def preparation_of(self, raw: RawDataset) -> Preparation:
        """Return the preparation, with the source's own preprocess function if none is given."""
        held = self._preparation
        if held.preprocess is not None or not isinstance(raw, GeneratedDataset):
            return held
        return dataclasses.replace(held, preprocess=type(raw.source).preprocess_function)

    def _table(
        self, raw: RawDataset, tokenizer: Any, cache_dir: Path | None, debug: bool, *, rewrite: bool
    ) -> Table:
        name = f"{self._name(debug=debug)} {self._filter_suffix or ''}"
        return self.preparation_of(raw).table(
            raw, tokenizer, cache_dir=cache_dir, name=name, rewrite=rewrite
        )

    def _open_rows(
        self, raw: RawDataset, tokenizer: Any, cache_dir: Path | None, block_size: int | None
    ) -> RowSource:
        if not self._streams(raw):
            table = self._table(raw, tokenizer, cache_dir, self._debug, rewrite=False)
            return self._grouped(self._filtered(table), tokenizer, block_size)
        if self._filter is not None:
            raise ArgumentError("on_the_fly_filter_fn needs rows by number; use filter_fn")
        if isinstance(raw, GeneratedDataset) and raw.source.stream:
            if self._grouper is not None:
                raise ArgumentError(
                    "a group processor needs rows that end; leave out stream=true, or the processor"
                )
            return self.preparation_of(raw).blocks(raw, tokenizer)
        opened = _Opened(self, raw, tokenizer, block_size)
        return ForwardRows(opened, shuffle_buffer_size=self._shuffle_buffer_size, seed=self._seed)

    def _filtered(self, table: Table) -> Table:
        if self._filter is None:
            return table
        kept = [n for n, row in enumerate(table.rows(np.arange(len(table)))) if self._filter(row)]
        return table.take(np.array(kept, dtype=np.int64))

    def _grouped(self, table: Table, tokenizer: Any, block_size: int | None) -> Table:
        if self._grouper is None:
            return table
        return Table.of(self.group(table.to_columns(), tokenizer, block_size))

    def group(
        self, columns: Mapping[str, Sequence[Any]], tokenizer: Any, block_size: int | None
    ) -> Mapping[str, Sequence[Any]]:
        """Make new rows of many, by the group processor."""
        if self._grouper is None:
            return columns
        kwargs = dict(self._grouper_kwargs)
        if takes(self._grouper, "block_size") and block_size is not None:
            kwargs.setdefault("block_size", block_size)
        return self._grouper(columns, tokenizer, **kwargs)


@dataclass(frozen=True)
class _Opened:
    """Reads the prepared, grouped rows of a stream from its beginning, also in another process."""

    manager: "DatasetManager"
    raw: RawDataset
    tokenizer: Any
    block_size: int | None

    def __call__(self) -> Iterator[Mapping[str, Any]]:
        for columns in self.manager.preparation_of(self.raw).chunks(self.raw, self.tokenizer):
            grouped = self.manager.group(columns, self.tokenizer, self.block_size)
            for cells in zip(*grouped.values(), strict=True):
                yield dict(zip(grouped, cells, strict=True))


def _known(given: Mapping[str, Any] | None, known: Sequence[str], what: str) -> dict[str, Any]:
    for name in given or ():
        if name not in known:
            raise UnknownNameError(what, name, known)
    return dict(given or {})


def _stage(stage: str) -> str:
    if stage not in _STAGES:
        raise UnknownNameError("stage", stage, _STAGES)
    return stage
