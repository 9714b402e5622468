"""Makes the trackers that `--tracker` names."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError, BaseTracker, load
from pellucid.optimizers import CompositeTracker, JSONLTracker

_ALWAYS = "jsonl"


def make_tracker(names: Sequence[str], steps: Path, run_id: str) -> BaseTracker:
    """Return what records a run: `steps.jsonl`, and every tracker that is named.

    Args:
        names: Registered names.
        steps: The file of steps; other trackers that write files write beside it.
        run_id: What services know the run by, so that it can go on there.

    Raises:
        UnknownNameError: If a name is not registered; near matches are offered.
        MissingDependencyError: If a service is not installed.
        ArgumentError: If a name occurs twice, or a tracker needs what the command cannot give.
    """
    twice = sorted({name for name in names if [*names, _ALWAYS].count(name) > 1})
    if twice:
        raise ArgumentError(
            f"--tracker {twice[0]} would record twice; {_ALWAYS} always does. Name it once less."
        )
    own = JSONLTracker(steps)
    if not names:
        return own
    return CompositeTracker([own, *(_make(name, steps.parent, run_id) for name in names)])


def _make(name: str, folder: Path, run_id: str) -> BaseTracker:
    kind = load("pellucid.trackers", name)
    offered: Mapping[str, Any] = {
        "experiment_name": folder.name,
        "run_id": run_id,
        "log_dir": folder / "tensorboard",
        "log_file_path": folder / "steps.json",
    }
    parameters = inspect.signature(kind).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        each.name
        for each in parameters.values()
        if each.default is each.empty and each.kind not in variadic and each.name not in offered
    ]
    if needed:
        raise ArgumentError(
            f"the tracker {name!r} needs {', '.join(needed)}, which the command cannot give. "
            "Use it from Python, or choose another tracker."
        )
    return kind(**{key: value for key, value in offered.items() if key in parameters})
