"""The directory of a run: made late, written whole, read with suspicion."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pellucid.cli._request import Request, from_config, to_config
from pellucid.core import ArgumentError, CheckpointError


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A directory with `config.json`, `steps.jsonl`, `result.json`, `report.html`, `checkpoint/`.

    Every file but `steps.jsonl`, to which a line is added at each step, appears whole or not at
    all.

    Attributes:
        path: The directory, absolute.
    """

    path: Path

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.path / "config.json"

    @property
    def steps(self) -> Path:
        """One object a step."""
        return self.path / "steps.jsonl"

    @property
    def result(self) -> Path:
        """What came of it."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The same for the eye."""
        return self.path / "report.html"

    @property
    def checkpoint(self) -> Path:
        """What going on takes."""
        return self.path / "checkpoint"

    def create(self) -> list[Path]:
        """Make the directory, and return every directory made for it, the innermost first.

        Raises:
            ArgumentError: If it exists.
            OSError: If it cannot be made.
        """
        refuse_existing(self.path)
        made: list[Path] = []
        try:
            for directory in [*reversed(self.path.parents), self.path]:
                if not directory.is_dir():
                    directory.mkdir()
                    made.insert(0, directory)
        except OSError:
            _remove_empty(made)
            raise
        return made

    def discard_unless_begun(self, made: Sequence[Path]) -> None:
        """Remove what `create` made, unless a step has been recorded.

        Args:
            made: What `create` returned.
        """
        if self.steps.exists() and self.steps.stat().st_size > 0:
            return
        shutil.rmtree(self.path)
        _remove_empty(made[1:])

    def write_request(self, request: Request) -> None:
        """Write `config.json`."""
        write_whole(self.config, _to_json(to_config(request)))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`; numbers that JSON does not know become null."""
        write_whole(self.result, _to_json(result))

    def write_report(self, page: str) -> None:
        """Write `report.html`."""
        write_whole(self.report, page)

    def read_config(self) -> dict[str, Any]:
        """Return the contents of `config.json`.

        Raises:
            CheckpointError: If the directory is not that of a run.
        """
        if not self.path.is_dir():
            raise CheckpointError(
                f"there is no run directory {str(self.path)!r}. Name one that "
                "`pellucid optimize` or `pellucid demo` has written."
            )
        return _read_json(self.config)

    def read_request(self) -> Request:
        """Return what the run was asked to do.

        Raises:
            CheckpointError: If the directory is not that of a run, or its configuration is damaged.
        """
        config = self.read_config()
        try:
            return from_config(config)
        except CheckpointError as error:
            raise CheckpointError(_damaged(self.config, str(error))) from error

    def read_result(self) -> dict[str, Any] | None:
        """Return the contents of `result.json`, or None when the run has written none yet.

        Raises:
            CheckpointError: If it is damaged.
        """
        return _read_json(self.result) if self.result.exists() else None

    def read_steps(self) -> list[dict[str, Any]]:
        """Return the rows of `steps.jsonl`.

        A last line without its end is left out: a process that is killed while it writes leaves
        one, and the step it belongs to is made again.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        *lines, _ = _read_text(self.steps).split("\n")
        rows = [_read_row(line) for line in lines]
        for number, row in enumerate(rows, start=1):
            if row is None or row.get("step") != number:
                raise CheckpointError(
                    _damaged(self.steps, f"line {number} is not the row of step {number}")
                )
        return [row for row in rows if row is not None]


def _remove_empty(directories: Sequence[Path]) -> None:
    for directory in directories:
        # Somebody else may have begun to use it.
        with contextlib.suppress(OSError):
            directory.rmdir()


def refuse_existing(path: Path) -> None:
    """Refuse a directory that exists.

    Raises:
        ArgumentError: If there is anything at this path.
    """
    if path.exists() or path.is_symlink():
        raise ArgumentError(
            f"the run directory {str(path)!r} exists. Give --out another name, or go on with the "
            "run in it with --resume."
        )


def default_path(name: str) -> Path:
    """Return a path under `runs/` that names the time and the run, and does not exist."""
    stem = f"runs/{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}"
    return _first_free(stem)


def demo_path() -> Path:
    """Return a path under `runs/` for a demonstration that does not exist."""
    return _first_free(f"runs/demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}")


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        OSError: If it cannot be written; then what was there before still is.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _first_free(stem: str) -> Path:
    path = Path(stem)
    number = 2
    while path.exists():
        path = Path(f"{stem}-{number}")
        number += 1
    return path


def _read_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(_read_text(path))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(_damaged(path, f"it is not JSON ({error})")) from error
    if not isinstance(held, dict):
        raise CheckpointError(_damaged(path, "it does not hold an object"))
    return held


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(_damaged(path, "it is missing")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(_damaged(path, f"it cannot be read ({error})")) from error


def _damaged(path: Path, reason: str) -> str:
    return (
        f"the run in {str(path.parent)!r} cannot be resumed: {path.name}: {reason}. "
        "Start it anew with another --out."
    )


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
