"""Trackers that need no service: a file of JSON lines, and a record in memory."""

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError, BaseTracker, CheckpointError, MissingDependencyError


class JSONLTracker(BaseTracker):
    """Appends one JSON object a step to a file, which is flushed each time.

    When a run resumes, rows beyond the step it resumes from are cut off first.

    Args:
        path: The file; it must not exist unless the run resumes.
        experiment_name: What the run is called.
    """

    def __init__(
        self, path: str | os.PathLike[str], experiment_name: str = "pellucid_experiment"
    ) -> None:
        super().__init__(experiment_name)
        self.path = Path(path)
        self._file: TextIOWrapper | None = None

    def _init(self, config: Mapping[str, Any]) -> None:
        last_step = config.get("resume_from_step")
        if last_step is not None:
            _truncate(self.path, int(last_step))
        elif self.path.exists():
            raise ArgumentError(
                f"{os.fspath(self.path)!r} exists. Resume the run it belongs to, or record "
                "elsewhere."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

    def _log(self, data: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(dict(data), ensure_ascii=False) + "\n")
            self._file.flush()

    def _finish(self, summary: Mapping[str, Any]) -> None:
        del summary
        if self._file is not None:
            self._file.close()
            self._file = None


class DictTracker(BaseTracker):
    """Keeps everything in memory.

    Attributes:
        config: The configuration of the latest run.
        records: Its steps, one dictionary each.
        summary: What it was finished with.
    """

    def __init__(self, experiment_name: str = "pellucid_experiment") -> None:
        super().__init__(experiment_name)
        self.config: dict[str, Any] = {}
        self.records: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}

    @property
    def history(self) -> dict[str, list[Any]]:
        """The records as columns; None where a step recorded nothing of the kind."""
        names = {name: None for record in self.records for name in record}
        return {name: [record.get(name) for record in self.records] for name in names}

    def to_frame(self) -> Any:
        """Return the records as a `pandas.DataFrame`, a row for each step, by `step` if recorded.

        Raises:
            MissingDependencyError: (an ImportError) If pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise MissingDependencyError(
                "to_frame() makes a pandas.DataFrame, and pandas is not installed. "
                "pip install 'pellucid-optimizers[pandas]'"
            )
        pandas: Any = importlib.import_module("pandas")
        frame = pandas.DataFrame(self.records)
        return frame.set_index("step") if "step" in frame.columns else frame

    def _init(self, config: Mapping[str, Any]) -> None:
        self.config, self.records, self.summary = dict(config), [], {}

    def _log(self, data: Mapping[str, Any]) -> None:
        self.records.append(dict(data))

    def _finish(self, summary: Mapping[str, Any]) -> None:
        self.summary = dict(summary)


def _truncate(path: Path, last_step: int) -> None:
    # A crash may have left rows that the checkpoint does not know of, the last one torn.
    try:
        lines = path.read_bytes().splitlines(keepends=True)[:last_step]
        steps = [json.loads(line)["step"] for line in lines]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)!r} cannot be continued ({error}).") from error
    if steps != list(range(1, last_step + 1)):
        raise CheckpointError(
            f"{os.fspath(path)!r} does not hold steps 1 to {last_step}, which the checkpoint goes "
            "on from."
        )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(b"".join(lines))
    draft.replace(path)
