"""A table of runs that several processes may write to, and that no kill can damage.

Each run has a directory of its own; what it came to is one file there, which appears whole or not
at all. `results.jsonl` is these files put together, replaced whole under a lock.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pellucid.core import ArgumentError, CheckpointError

FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The directory of a run.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def config(self) -> Path:
        """What was asked for; what `RecipeConfig.load` reads."""
        return self.path / "config.yaml"

    @property
    def steps(self) -> Path:
        """One object a step."""
        return self.path / "steps.jsonl"

    @property
    def result(self) -> Path:
        """The result, with its history; what `OptimizerResult.load` reads."""
        return self.path / "result.json"

    @property
    def row(self) -> Path:
        """The run's row of the table."""
        return self.path / "row.json"

    @property
    def checkpoint(self) -> Path:
        """What going on takes."""
        return self.path / "checkpoint"

    def has_checkpoint(self) -> bool:
        """Say whether there is something to go on from."""
        return self.checkpoint.is_dir() and any(
            not path.name.startswith(".") for path in self.checkpoint.iterdir()
        )

    def read_row(self) -> dict[str, Any] | None:
        """Return the row, None if there is none yet.

        Raises:
            CheckpointError: (a ValueError) If it is damaged.
        """
        if not self.row.exists():
            return None
        try:
            row = json.loads(self.row.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the row {str(self.row)!r} cannot be read ({error}). Delete it: the run is made "
                "again."
            ) from error
        return dict(row)


@dataclasses.dataclass(frozen=True)
class ResultsTable:
    """A directory of runs, and the table of what they came to.

    Attributes:
        path: The directory; made when it is first written to.
    """

    path: Path

    @property
    def file(self) -> Path:
        """One object a run."""
        return self.path / "results.jsonl"

    def folder(self, key: str) -> RunFolder:
        """Return the directory of a run."""
        return RunFolder(self.path / "runs" / key)

    @contextlib.contextmanager
    def claim(self, key: str) -> Generator[bool]:
        """Hold a run for this process; yields False if another process holds it."""
        folder = self.folder(key).path
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def write_row(self, row: Mapping[str, Any]) -> None:
        """Write the row of a run, and the table with it."""
        write_whole(self.folder(str(row["key"])).row, _to_line(row))
        # A row that another process adds from here on is in the table that it writes itself.
        with FileLock(self.path / ".results.lock"):
            text = "".join(_to_line(held) for held in self.read_rows() if _has_ended(held))
            write_whole(self.file, text)

    def read_rows(self) -> list[dict[str, Any]]:
        """Return a row for each run, in the order of their keys, unfinished ones included.

        Raises:
            CheckpointError: (a ValueError) If a row is damaged.
        """
        rows: list[dict[str, Any]] = []
        for path in sorted((self.path / "runs").glob("*")):
            folder = RunFolder(path)
            row = folder.read_row()
            if row is None and folder.config.exists():
                row = {"key": path.name, "status": UNFINISHED}
            if row is not None:
                rows.append(row)
        return rows


def load_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the rows of a table.

    Args:
        path: The directory that runs were written to, or its `results.jsonl`.

    Raises:
        ArgumentError: (a ValueError) If there is no table.
        CheckpointError: (a ValueError) If it is damaged.
    """
    place = Path(path)
    if (place / "runs").is_dir():
        return ResultsTable(place).read_rows()
    if not place.is_file():
        raise ArgumentError(
            f"there is no table of results at {os.fspath(path)!r}. Name the directory that runs "
            "were written to, or its results.jsonl."
        )
    try:
        return [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{os.fspath(path)!r} is no table of results: {error}") from error


def load_results(path: str | os.PathLike[str]) -> Any:
    """Return a table: a pandas DataFrame where pandas is installed, else the rows of `load_rows`.

    Settings become columns of their own, such as `overrides.n_candidates`.

    Args:
        path: The directory that runs were written to, or its `results.jsonl`.

    Raises:
        ArgumentError: (a ValueError) If there is no table.
        CheckpointError: (a ValueError) If it is damaged.
    """
    rows = load_rows(path)
    try:
        import pandas as pd  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return rows
    return pd.json_normalize(rows)


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _has_ended(row: Mapping[str, Any]) -> bool:
    return row["status"] != UNFINISHED


def _to_line(row: Mapping[str, Any]) -> str:
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
