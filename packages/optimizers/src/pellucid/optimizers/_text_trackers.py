"""Trackers for the eye, and for those who read a run as one file."""

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError, BaseTracker


class PrintTracker(BaseTracker):
    """Prints a line at the start, every so many steps, and at the end.

    Args:
        print_keys: What to print of a step, in this order; what a step lacks is left out.
        every: A line is printed for every so many steps, the first one included.
        file: Where to print; the standard output, as it is then, when omitted.
        experiment_name: What the run is called.
        experiment_config: Values to record beside the run's own configuration.

    Raises:
        ArgumentError: (a ValueError) If there is nothing to print, or `every` is less than 1.
    """

    def __init__(
        self,
        print_keys: Sequence[str] = ("step", "loss", "best_loss", "trigger", "trigger_str"),
        *,
        every: int = 1,
        file: io.TextIOBase | None = None,
        experiment_name: str = "pellucid_experiment",
        experiment_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(experiment_name, experiment_config)
        if isinstance(print_keys, str) or not print_keys:
            raise ArgumentError(f"print_keys must be names of values, got {print_keys!r}.")
        if every < 1:
            raise ArgumentError(f"every must be at least 1, got {every!r}.")
        self.print_keys = tuple(print_keys)
        self.every = every
        self._out = file
        self._n_steps = 0

    def _init(self, config: Mapping[str, Any]) -> None:
        self._n_steps = 0
        parts = [config[name] for name in ("optimizer", "model", "loss") if name in config]
        self._write(f"begins: {', '.join(map(str, parts))}" if parts else "begins")

    def _log(self, data: Mapping[str, Any]) -> None:
        if self._n_steps % self.every == 0:
            held = [f"{name} {_show(data[name])}" for name in self.print_keys if name in data]
            self._write("  ".join(held))
        self._n_steps += 1

    def _finish(self, summary: Mapping[str, Any]) -> None:
        held = [f"{name} {_show(value)}" for name, value in summary.items() if _is_short(value)]
        self._write("  ".join(["ends:", *held]))

    def _write(self, line: str) -> None:
        out = sys.stdout if self._out is None else self._out
        out.write(f"{self.experiment_name}: {line}\n")
        out.flush()


class JSONTracker(BaseTracker):
    """Writes one JSON file when a run ends: its configuration, its steps as columns, its summary.

    A run that is killed leaves nothing; `JSONLTracker` writes step by step. When a run resumes, the
    steps of the file up to there are kept.

    Args:
        log_file_path: The file, replaced if it exists; `{experiment_name}` stands for the name.
        experiment_name: What the run is called.
        experiment_config: Values to record beside the run's own configuration.
    """

    def __init__(
        self,
        log_file_path: str | os.PathLike[str] = "./logs/{experiment_name}.json",
        experiment_name: str = "pellucid_experiment",
        experiment_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(experiment_name, experiment_config)
        path = os.fspath(log_file_path).replace("{experiment_name}", experiment_name)
        self.path = Path(path)
        self._config: dict[str, Any] = {}
        self._records: list[dict[str, Any]] = []

    def _init(self, config: Mapping[str, Any]) -> None:
        self._config, self._records = dict(config), []
        last_step = config.get("resume_from_step")
        if last_step is not None and self.path.exists():
            self._records = _read_records(self.path)[: int(last_step)]

    def _log(self, data: Mapping[str, Any]) -> None:
        self._records.append(dict(data))

    def _finish(self, summary: Mapping[str, Any]) -> None:
        names = {name: None for record in self._records for name in record}
        history = {name: [record.get(name) for record in self._records] for name in names}
        held = {"config": self._config, "history": history, "summary": dict(summary)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(held, ensure_ascii=False, indent=1), encoding="utf-8")
        draft.replace(self.path)


def _read_records(path: Path) -> list[dict[str, Any]]:
    columns = json.loads(path.read_text(encoding="utf-8")).get("history", {})
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _is_short(value: Any) -> bool:
    return value is not None and isinstance(value, bool | int | float | str)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    # A trigger may hold escape sequences and line breaks.
    return repr(value) if isinstance(value, str) else str(value)
