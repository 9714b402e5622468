"""Trackers that hand a run to Weights & Biases, TensorBoard or trackio, each an extra.

A service is imported when a run begins. It is kept from the caller's warning filters, standard
output and exit hooks.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from pellucid.core import BaseTracker, MissingDependencyError

_STEP = "step"


class WandbTracker(BaseTracker):
    """Records in Weights & Biases, or with `mode="offline"` in a folder to `wandb sync` later.

    A run that resumes goes on under its `run_id`, which a later process passes in; the service
    keeps the steps that it has, by their numbers.

    Args:
        project_name: The project.
        experiment_name: What the run is called.
        experiment_config: Values to record beside the run's own configuration.
        run_id: The id of the run; the service's choice, afterwards in `tracker.run_id`, when
            omitted.
        **wandb_kwargs: Passed to `wandb.init`, such as `entity`, `mode`, `tags` or `dir`.

    Raises:
        MissingDependencyError: (an ImportError) If wandb is not installed.
    """

    def __init__(
        self,
        project_name: str = "pellucid",
        experiment_name: str = "pellucid_experiment",
        experiment_config: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        **wandb_kwargs: Any,
    ) -> None:
        super().__init__(experiment_name, experiment_config)
        _require("wandb", "wandb")
        self.project_name = project_name
        self.run_id = run_id
        self._options = wandb_kwargs
        self._is_new = True
        self._run: Any = None
        self._n_steps = 0

    def _init(self, config: Mapping[str, Any]) -> None:
        self._n_steps = int(config.get("resume_from_step") or 0)
        if not self._is_new and "resume_from_step" not in config:
            self.run_id = None  # it was that of an earlier run
        with _apart():
            wandb = importlib.import_module("wandb")
            options: dict[str, Any] = {
                "project": self.project_name,
                "name": self.experiment_name,
                "reinit": "create_new",
                # By default it puts itself in the place of the standard output.
                "settings": wandb.Settings(console="off"),
                **self._options,
            }
            if self.run_id is not None:
                options |= {"id": self.run_id, "resume": "allow"}
            self._run = wandb.init(config=dict(config), **options)
        self._is_new = False
        self.run_id = self._run.id

    def _log(self, data: Mapping[str, Any]) -> None:
        self._n_steps = int(data.get(_STEP, self._n_steps + 1))
        with _apart():
            # A step that is held back would overwrite the summary when it is written at last.
            self._run.log(dict(data), step=self._n_steps, commit=True)

    def _finish(self, summary: Mapping[str, Any]) -> None:
        run, self._run = self._run, None
        with _apart():
            run.summary.update(dict(summary))
            run.finish(exit_code=int(summary.get("status") == "failed"))


class TensorBoardTracker(BaseTracker):
    """Writes TensorBoard's event files, a folder for each run.

    Numbers become scalars under their names, those of the summary under `summary/`; triggers and
    other texts become texts, and so does the configuration. A run that resumes goes on in the
    latest folder of its name; steps beyond the one it goes on from are marked as void.

    Args:
        log_dir: The folder that holds the runs' folders; point `tensorboard --logdir` at it.
        experiment_name: What the run's folder is called; a number is added where there is one.
        experiment_config: Values to record beside the run's own configuration.

    Raises:
        MissingDependencyError: (an ImportError) If tensorboard is not installed.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "./logs/tensorboard",
        experiment_name: str = "pellucid_experiment",
        experiment_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(experiment_name, experiment_config)
        _require("tensorboard", "tensorboard")
        self.log_dir = Path(log_dir)
        self.path: Path | None = None
        self._writer: Any = None
        self._n_steps = 0

    def _init(self, config: Mapping[str, Any]) -> None:
        last_step = config.get("resume_from_step")
        self._n_steps = int(last_step or 0)
        latest, free = self._find_folders()
        self.path = free if last_step is None or latest is None else latest
        with _apart():
            board = importlib.import_module("torch.utils.tensorboard")
            purge = None if last_step is None else int(last_step) + 1
            self._writer = board.SummaryWriter(os.fspath(self.path), purge_step=purge)
            text = json.dumps(dict(config), ensure_ascii=False, indent=1, default=str)
            self._writer.add_text("config", _indent(text), self._n_steps)
            self._writer.flush()

    def _log(self, data: Mapping[str, Any]) -> None:
        self._n_steps = int(data.get(_STEP, self._n_steps + 1))
        with _apart():
            for name, value in data.items():
                if name != _STEP:
                    self._add(name, value)

    def _finish(self, summary: Mapping[str, Any]) -> None:
        writer = self._writer
        with _apart():
            for name, value in summary.items():
                self._add(f"summary/{name}", value)
            writer.close()
        self._writer = None

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, int | float):
            self._writer.add_scalar(name, float(value), self._n_steps)
        elif isinstance(value, str):
            self._writer.add_text(name, _indent(value), self._n_steps)

    def _find_folders(self) -> tuple[Path | None, Path]:
        """Return the latest folder of this name, if there is one, and the next that is free."""
        latest, number = None, 1
        path = self.log_dir / self.experiment_name
        while path.exists():
            latest, number = path, number + 1
            path = self.log_dir / f"{self.experiment_name}-{number}"
        return latest, path


class TrackioTracker(BaseTracker):
    """Records with trackio: locally, or in a Hugging Face Space.

    A run that resumes goes on in the latest one of its name.

    Args:
        project_name: The project.
        experiment_name: What the run is called.
        experiment_config: Values to record beside the run's own configuration.
        space_id: The Space to record in; a local database when omitted.
        **trackio_kwargs: Passed to `trackio.init`, such as `group`.

    Raises:
        MissingDependencyError: (an ImportError) If trackio is not installed.
    """

    def __init__(
        self,
        project_name: str = "pellucid",
        experiment_name: str = "pellucid_experiment",
        experiment_config: Mapping[str, Any] | None = None,
        *,
        space_id: str | None = None,
        **trackio_kwargs: Any,
    ) -> None:
        super().__init__(experiment_name, experiment_config)
        _require("trackio", "trackio")
        self.project_name = project_name
        self.space_id = space_id
        self._options = trackio_kwargs
        self._run: Any = None
        self._n_steps = 0

    def _init(self, config: Mapping[str, Any]) -> None:
        last_step = config.get("resume_from_step")
        self._n_steps = int(last_step or 0)
        # Nobody asked for a dashboard, or for what the machine is doing.
        quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        options: dict[str, Any] = {**quiet, **self._options}
        with _apart():
            trackio = importlib.import_module("trackio")
            self._run = trackio.init(
                project=self.project_name,
                name=self.experiment_name,
                space_id=self.space_id,
                config=json.loads(json.dumps(dict(config), default=str)),
                resume="never" if last_step is None else "allow",
                **options,
            )

    def _log(self, data: Mapping[str, Any]) -> None:
        self._n_steps = int(data.get(_STEP, self._n_steps + 1))
        # Its own column of steps has the name already.
        values = {name: value for name, value in data.items() if name != _STEP}
        with _apart():
            self._run.log(values, step=self._n_steps)

    def _finish(self, summary: Mapping[str, Any]) -> None:
        run, self._run = self._run, None
        with _apart():
            values = {f"summary/{name}": value for name, value in summary.items()}
            if values:
                run.log(values, step=self._n_steps)
            run.finish()


@contextlib.contextmanager
def _apart() -> Generator[None]:
    """Keep a service from the caller's warning filters, standard output and exit hooks."""
    hooks = sys.excepthook, sys.exit
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        # Services watch how the process ends; a run that begins here is finished here as well.
        sys.excepthook, sys.exit = hooks


def _require(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(
            f"the module {module!r}, which this tracker records with, is not installed. "
            f"pip install 'pellucid-optimizers[{extra}]'"
        )


def _indent(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
