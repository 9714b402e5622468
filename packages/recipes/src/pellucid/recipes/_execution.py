"""One run of a table: skipped if it has been made, gone on with if it was begun."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.core import OptimizerResult
from pellucid.optimizers import Callback, JSONLTracker, Step
from pellucid.recipes._config import RecipeConfig
from pellucid.recipes._run import run
from pellucid.recipes._table import (
    FAILED,
    FINISHED,
    UNFINISHED,
    ResultsTable,
    RunFolder,
    write_whole,
)


class _Clock:
    """A callback that remembers when the latest step was made."""

    def __init__(self) -> None:
        self.elapsed_s: float | None = None

    def __call__(self, step: Step) -> bool:
        self.elapsed_s = step.elapsed_s
        return False


def carry_out(
    config: RecipeConfig,
    out: str | os.PathLike[str],
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Make a run, and add its row to the table in a directory.

    A run that has a row is not made again, unless it failed; one that was cut short goes on from
    its checkpoint, bit for bit; one that another process is making is left to it. Nothing but its
    own directory and the table is written to, so that any number of processes may share a table.

    Args:
        config: What to run.
        out: Directory of the table.
        callbacks: Called after each step; one that returns True ends the run.
        progress: Whether to show a progress bar when the output is a terminal.

    Returns:
        The run's row; its `status` is "finished", or "unfinished" if another process makes it or
        an interrupt ended it.

    Raises:
        Exception: What the run raised; its row says so, too, with the status "failed".
    """
    table = ResultsTable(Path(out))
    folder = table.folder(config.key)
    with table.claim(config.key) as is_ours:
        if not is_ours:
            return {**_describe(config), "status": UNFINISHED}
        row = folder.read_row()
        if row is not None and row["status"] == FINISHED:
            return row
        write_whole(folder.config, config.to_yaml())
        try:
            result, clock = _make(config, folder, callbacks, progress)
        except Exception as error:
            table.write_row({**_describe(config), "status": FAILED, "error": str(error)})
            raise
        row = {**_describe(config), **_summarize(result, clock)}
        if row["status"] == FINISHED:
            result.save(folder.result)
            table.write_row(row)
        return row


def _make(
    config: RecipeConfig, folder: RunFolder, callbacks: Sequence[Callback], progress: bool
) -> tuple[OptimizerResult, _Clock]:
    resume = folder.has_checkpoint()
    if not resume:
        # What a run leaves that was killed before its first checkpoint.
        folder.steps.unlink(missing_ok=True)
    clock = _Clock()
    result = run(
        config.recipe,
        **config.to_arguments(),
        tracker=JSONLTracker(folder.steps),
        checkpoint_dir=folder.checkpoint,
        resume=resume,
        callbacks=[clock, *callbacks],
        progress=progress,
    )
    return result, clock


def _describe(config: RecipeConfig) -> dict[str, Any]:
    """Return the columns that say what a run is."""
    held = config.to_mapping()
    long = ("templates", "targets", "checkpoint_every", "initial_trigger")
    return {
        "key": config.key,
        "status": UNFINISHED,
        **{name: value for name, value in held.items() if name not in long},
    }


def _summarize(result: OptimizerResult, clock: _Clock) -> dict[str, Any]:
    """Return the columns that say what a run came to."""
    interrupted = result.stop_reason == "interrupted"
    return {
        "status": UNFINISHED if interrupted else FINISHED,
        "initial_loss": result.initial_loss,
        "best_loss": result.best_loss,
        "verified_loss": result.verified_loss,
        "tokenization_gap": result.tokenization_gap,
        "best_trigger": result.best_trigger_str,
        "steps": len(result.losses),
        "stop_reason": result.stop_reason,
        "tokens": result.usage.get("total_tokens"),
        "elapsed_s": clock.elapsed_s,
    }
