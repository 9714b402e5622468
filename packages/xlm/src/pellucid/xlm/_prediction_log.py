"""What a model predicted, one JSON object per sample, one file per loader and step."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._checkpoint_io import write_aside

_ALWAYS_KEPT = ("length", "entropy", "nll", "perplexity", "steps_taken", "time_taken")
_SHOWN = 10
_WIDTH = 100

Record = dict[str, Any]


@runtime_checkable
class Writer(Protocol):
    """Puts the records of one loader and step somewhere."""

    def write(self, records: Sequence[Record], place: "Place") -> None:
        """Write all records; called once per place, on the first rank alone."""
        ...


class Place:
    """Where records come from: a split, a loader, and a moment of the run.

    Args:
        directory: The run's directory of predictions.
        split: train, val, test or predict.
        loader: Name of the loader.
        epoch: Epochs that were begun.
        step: Optimizer steps that were made.
        module: The harness, for those who log.
    """

    def __init__(
        self, directory: Path, *, split: str, loader: str, epoch: int, step: int, module: Any = None
    ) -> None:
        self.split = split
        self.loader = loader
        self.epoch = epoch
        self.step = step
        self.module = module
        self.path = directory / split / loader / f"epoch={epoch}_step={step}.jsonl"


class FileWriter:
    """Writes JSON lines; a file of the same epoch and step is replaced, never appended to."""

    def write(self, records: Sequence[Record], place: Place) -> None:
        """Write the file of this place."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_aside(place.path, lambda stream: _write_text(stream, lines))


class ConsoleWriter:
    """Prints the first records."""

    def write(self, records: Sequence[Record], place: Place) -> None:
        """Print a line per record, ten at most."""
        print(f"{place.split}/{place.loader}, step {place.step}:")  # noqa: T201
        for record in records[:_SHOWN]:
            print(f"  {json.dumps(record, ensure_ascii=False)[:_WIDTH]}")  # noqa: T201


class LoggerWriter:
    """Gives the first records to the run's loggers that take tables or text."""

    def write(self, records: Sequence[Record], place: Place) -> None:
        """Log ten records at most."""
        for logger in getattr(place.module, "loggers", []):
            shown = [json.dumps(record, ensure_ascii=False) for record in records[:_SHOWN]]
            if hasattr(logger, "log_text") and shown:
                logger.log_text(
                    key=f"{place.split}/{place.loader}/predictions",
                    columns=["record"],
                    data=[[line] for line in shown],
                    step=place.step,
                )
            elif hasattr(getattr(logger, "experiment", None), "add_text"):
                logger.experiment.add_text(
                    f"{place.split}/{place.loader}/predictions", "\n\n".join(shown), place.step
                )


_WRITERS: dict[str, type[Any]] = {
    "console": ConsoleWriter,
    "file": FileWriter,
    "logger": LoggerWriter,
}


class LogPredictions:
    """Turns predictions into records, keeps them for an epoch, and writes them once.

    Args:
        writers: "file", "console", "logger", or objects with `write(records, place)`.
        inject_target: Field of the batch whose decoded rows become the records' `truth`.
        additional_fields_from_batch: Fields of the batch that go into the records as they are.
        fields_to_keep_in_output: Fields of the predictor's records to keep; all if None. Length,
            entropy, likelihood, steps, time and metrics are always kept.

    Raises:
        UnknownNameError: There is no writer of that name.
    """

    def __init__(
        self,
        writers: Sequence[Any] = ("file",),
        inject_target: str | None = None,
        additional_fields_from_batch: Sequence[str] | None = None,
        *,
        fields_to_keep_in_output: Sequence[str] | None = None,
    ) -> None:
        self.writers = [_writer(writer) for writer in writers]
        self.inject_target = inject_target
        self.additional_fields_from_batch = tuple(additional_fields_from_batch or ())
        self.fields_to_keep_in_output = fields_to_keep_in_output
        self._held: dict[tuple[str, str], list[Record]] = {}

    def __call__(self, module: Any, batch: Any, preds: Any, *, split: str, loader: str) -> None:
        """Keep the records of a batch until `flush`."""
        records = module.predictor.to_dict(batch, preds, dataloader_name=loader)
        if self.inject_target is not None:
            truths = module.tokenizer.batch_decode(
                _field(batch, self.inject_target), skip_special_tokens=True
            )
            for record, truth in zip(records, truths, strict=True):
                record["truth"] = truth
        for name in self.additional_fields_from_batch:
            values = _plain(_field(batch, name))
            for record, value in zip(records, values, strict=True):
                record[name] = value
        kept = [self._keep(record) for record in records]
        self._held.setdefault((split, loader), []).extend(kept)

    def discard(self, split: str) -> None:
        """Forget what an evaluation that broke off left behind."""
        self._held = {at: held for at, held in self._held.items() if at[0] != split}

    def flush(self, place: Place) -> list[Record]:
        """Gather a loader's records over all ranks, and write them on the first.

        Returns:
            All records on the first rank, none on the others.
        """
        mine = self._held.pop((place.split, place.loader), [])
        records = _gather(mine)
        if records is None:
            return []
        for writer in self.writers:
            writer.write(records, place)
        return records

    def _keep(self, record: Record) -> Record:
        wanted = self.fields_to_keep_in_output
        return {
            name: _plain(value)
            for name, value in record.items()
            if wanted is None
            or name in wanted
            or name in self.additional_fields_from_batch
            or name in _ALWAYS_KEPT
            or name.startswith("metric_")
        }


def _writer(writer: Any) -> Writer:
    if not isinstance(writer, str):
        return writer
    if writer not in _WRITERS:
        raise UnknownNameError("writer of predictions", writer, _WRITERS)
    return _WRITERS[writer]()


def _field(batch: Mapping[str, Any], name: str) -> Any:
    if name not in batch or batch[name] is None:
        held = ", ".join(sorted(batch))
        raise ArgumentError(f"the batch has no field {name!r} to log; it has {held}")
    return batch[name]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _gather(mine: list[Record]) -> list[Record] | None:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return mine
    is_first = dist.get_rank() == 0
    parts: list[Any] | None = [None] * dist.get_world_size() if is_first else None
    dist.gather_object(mine, parts)
    if parts is None:
        return None
    # Ranks take every n-th sample, so this is the order of the loader.
    longest = max(len(part) for part in parts)
    return [part[row] for row in range(longest) for part in parts if row < len(part)]


def _write_text(stream: Any, text: str) -> None:
    stream.write(text.encode())


__all__ = ["ConsoleWriter", "FileWriter", "LogPredictions", "LoggerWriter", "Place", "Record"]
