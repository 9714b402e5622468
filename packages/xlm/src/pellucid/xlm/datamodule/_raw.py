"""Datasets as they come: generated, in files, or of the library `datasets`."""

import csv
import hashlib
import importlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError, MissingDependencyError, UnknownNameError
from pellucid.xlm._preprocessing import Columns
from pellucid.xlm.sources import LocalSource, is_local, open_local

_FORMATS = (".csv", ".jsonl", ".txt")


class RawDataset(ABC):
    """Examples before they are preprocessed."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return plain values that tell this dataset from any other."""

    @abstractmethod
    def columns(self) -> Columns:
        """Return all examples, a list for each field."""

    @abstractmethod
    def open_rows(self) -> Iterator[Mapping[str, Any]]:
        """Read the examples one by one, from the first one on."""


@dataclass(frozen=True)
class GeneratedDataset(RawDataset):
    """What an address `local://...` stands for."""

    source: LocalSource

    def describe(self) -> dict[str, Any]:
        """Return the source's own description."""
        return self.source.describe()

    def columns(self) -> Columns:
        """Return all rows of the source."""
        return self.source.columns()

    def open_rows(self) -> Iterator[Mapping[str, Any]]:
        """Read the rows of the source."""
        return _rows_of(self.source.columns())


@dataclass(frozen=True)
class FileDataset(RawDataset):
    """A file of examples.

    Attributes:
        path: Of a file with a header and commas (.csv), an object a line (.jsonl), or a text a line
            (.txt).
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.suffix not in _FORMATS:
            raise ArgumentError(f"{str(self.path)!r} is no {', '.join(_FORMATS)} file")

    def describe(self) -> dict[str, Any]:
        """Return a digest of the content, so that a file that is changed is read again."""
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"file": self.path.name, "sha256": digest}

    def columns(self) -> Columns:
        """Return all lines."""
        return _columns_of(self.open_rows(), str(self.path))

    def open_rows(self) -> Iterator[Mapping[str, Any]]:
        """Read the lines one by one.

        Raises:
            ArgumentError: A line is not of the format.
        """
        # The newlines of quoted fields are the reader's own.
        with self.path.open(encoding="utf-8", newline="") as stream:
            if self.path.suffix == ".csv":
                yield from self._csv_rows(stream)
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    is_text = self.path.suffix == ".txt"
                    yield {"text": line.strip()} if is_text else self._parse(line, number)

    def _csv_rows(self, stream: Any) -> Iterator[Mapping[str, Any]]:
        reader = csv.DictReader(stream, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise ArgumentError(
                    f"line {reader.line_num} of {str(self.path)!r} has not as many fields as the "
                    "header; quote what holds commas"
                )
            yield row

    def _parse(self, line: str, number: int) -> Mapping[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ArgumentError(
                f"line {number} of {str(self.path)!r} is not JSON ({error})"
            ) from error
        if not isinstance(row, dict):
            raise ArgumentError(f"line {number} of {str(self.path)!r} is no object: {row!r}")
        return row


@dataclass(frozen=True)
class HubDataset(RawDataset):
    """A dataset of the library `datasets`.

    Attributes:
        repo: Name on the hub, or a directory.
        config: Its configuration, where it has several.
        split: Which of its splits.
        num_proc: Processes that prepare it.
    """

    repo: str
    config: str | None
    split: str
    num_proc: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return its name."""
        return {"repo": self.repo, "config": self.config, "split": self.split}

    def columns(self) -> Columns:
        """Load the whole dataset."""
        return self._load(streaming=False).to_dict()

    def open_rows(self) -> Iterator[Mapping[str, Any]]:
        """Read the dataset as it is downloaded."""
        return iter(self._load(streaming=True))

    def _load(self, *, streaming: bool) -> Any:
        try:
            datasets: Any = importlib.import_module("datasets")
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{self.repo!r} is a dataset of the library datasets, which is not installed. "
                "pip install 'pellucid-xlm[datasets]'"
            ) from error
        num_proc = None if streaming else self.num_proc
        return datasets.load_dataset(
            self.repo, self.config, split=self.split, streaming=streaming, num_proc=num_proc
        )


def open_dataset(full_name: str, *, num_proc: int | None = None) -> RawDataset:
    """Return the dataset of a name.

    Args:
        full_name: `local://...`, a path to a file, or `repo/name/split` or
            `repo/name/config/split` on the hub.
        num_proc: Processes that prepare a dataset of the hub.

    Raises:
        ArgumentError: The name is none of these, or there is no such file.
        UnknownNameError: There is no such generated dataset.
    """
    if is_local(full_name):
        return GeneratedDataset(open_local(full_name))
    path = Path(full_name).expanduser()
    if path.is_file():
        return FileDataset(path)
    if path.suffix in _FORMATS:
        nearby = sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))
        raise UnknownNameError(f"{path.suffix} file in {str(path.parent)!r}", path.name, nearby)
    parts = full_name.split("/")
    if len(parts) not in (3, 4) or not all(parts):
        raise ArgumentError(
            f"{full_name!r} names no dataset; write local://NAME?key=value, the path of a file "
            f"({', '.join(_FORMATS)}), repo/name/split or repo/name/config/split"
        )
    config = parts[2] if len(parts) == 4 else None
    return HubDataset("/".join(parts[:2]), config, parts[-1], num_proc)


def _rows_of(columns: Columns) -> Iterator[Mapping[str, Any]]:
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _columns_of(rows: Iterator[Mapping[str, Any]], where: str) -> Columns:
    first = next(rows, None)
    if first is None:
        raise ArgumentError(f"{where!r} has no examples")
    columns: dict[str, list[Any]] = {name: [] for name in first}
    for number, row in enumerate(itertools.chain([first], rows)):
        if row.keys() != columns.keys():
            raise ArgumentError(
                f"example {number} of {where!r} has the fields {sorted(row)!r}, and the first one "
                f"{sorted(columns)!r}; give all examples the same"
            )
        for name, cell in row.items():
            columns[name].append(cell)
    return columns
