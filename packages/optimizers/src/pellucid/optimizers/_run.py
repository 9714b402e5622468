"""A run: lets an optimizer walk, records, checkpoints, stops and resumes."""

import json
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from pellucid.core import (
    ArgumentError,
    CheckpointError,
    InitialTrigger,
    OptimizerResult,
    RequirementError,
    Targets,
    Template,
    check_templates,
    choose_start,
    count_parts,
)
from pellucid.optimizers._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Search
from pellucid.optimizers._random import draw_seed
from pellucid.optimizers._step import Callback, Step
from pellucid.optimizers._walk import Progress, Walk, restore_usage

# What may differ between a run and its continuation.
_FREE_SETTINGS = ("hparam/num_steps", "hparam/checkpoint_every")


class Run(Iterator[Step]):
    """One run of an optimizer, as an iterator of its steps.

    Nothing is computed before the first step is asked for. Leaving the loop early, or an interrupt,
    ends the run after its last whole step: a checkpoint is written if there is a place for it, the
    tracker is finished, the model's inputs are cleared, and `result` tells what was found.

    Args:
        optimizer: Decides.
        templates: As in `AskTellOptimizer.iterate`, and so are the others.
        initial_trigger: Where to start.
        targets: One entry for each template.
        checkpoint_dir: Where to keep a checkpoint.
        resume: Whether to go on from there.
        callbacks: Called after each step.
    """

    def __init__(
        self,
        optimizer: Search[Any],
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None,
        targets: Targets | None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None,
        resume: bool,
        callbacks: Sequence[Callback],
    ) -> None:
        # Refuses a budget in what the models do not count.
        optimizer.is_budget_spent()
        self._optimizer = optimizer
        self._templates = check_templates(templates, targets)
        self._trigger = choose_start(initial_trigger, count_parts(self._templates))
        self._targets = targets
        self._callbacks = tuple(callbacks)
        self._directory = None if checkpoint_dir is None else Path(checkpoint_dir)
        self._kept: Progress | None = None
        self._result: OptimizerResult | None = None
        seed = draw_seed() if optimizer.seed is None else optimizer.seed
        checkpoint = read_checkpoint(self._directory, self._describe()) if resume else None
        self._walk = Walk(optimizer, self._trigger, seed, checkpoint)
        self._is_resumed = resume
        self._steps = self._iterate()

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._walk.seed

    @property
    def first_step(self) -> int:
        """The number of the first step that this run computes: 1 unless it is resumed."""
        return self._walk.n_steps_before + 1

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """End the run after its last whole step."""
        self._steps.close()

    def result(self) -> OptimizerResult:
        """Return what the run found.

        Raises:
            RequirementError: While the run goes on, and when it failed before its first loss.
        """
        if self._result is None:
            raise RequirementError(
                "the run has no result yet. Iterate over it to the end, or call close() on it "
                "after at least one step."
            )
        return self._result

    def _iterate(self) -> Generator[Step]:
        note = {"seed": self.seed}
        if self._is_resumed:
            note["resume_from_step"] = self._walk.n_steps_before
        lifecycle = self._optimizer.run(self._templates, self._trigger, self._targets, note)
        with lifecycle as templates:
            problem = self._optimizer.make_problem()
            problem.set_inputs(templates, self._targets)
            problem.hold_parts(self._trigger)
            if self._walk.origin is not None:
                restore_usage(self._optimizer, self._walk.origin.usage)
            try:
                yield from self._follow(problem)
            except (KeyboardInterrupt, GeneratorExit):
                self._walk.stop_reason = "interrupted"
                raise
            finally:
                self._conclude(problem)

    def _follow(self, problem: Problem) -> Generator[Step]:
        for step in self._walk.steps(problem):
            self._record(step)
            stop_reason = ask_callbacks(self._callbacks, step)
            yield step
            if stop_reason is not None:
                self._walk.stop(stop_reason)

    def _record(self, step: Step) -> None:
        self._optimizer.tracker.log(step.to_record())
        # In one assignment, after the record: what is kept was recorded, whenever an interrupt is.
        self._kept = self._walk.latest
        if step.step % self._optimizer.checkpoint_every == 0:
            self._save(self._kept)

    def _conclude(self, problem: Problem) -> None:
        progress = self._kept or self._walk.origin
        if progress is None:
            return
        self._save(progress)
        self._result = self._walk.result(problem, progress)
        self._optimizer.summarize(self._result)

    def _save(self, progress: Progress | None) -> None:
        if self._directory is None or progress is None:
            return
        held = self._walk.pack(progress)
        values = {**held.values, "config": self._describe()}
        save_checkpoint(self._directory, Checkpoint(held.tensors, values))

    def _describe(self) -> dict[str, Any]:
        return describe(self._optimizer, self._templates, self._trigger, self._targets)


def describe(
    optimizer: Search[Any],
    templates: Sequence[Template],
    trigger: str | None,
    targets: Targets | None,
    **more: Any,
) -> dict[str, Any]:
    """Return what a run and its continuation must have in common, as a checkpoint holds it."""
    config = {**optimizer.describe(templates, trigger, targets), **more}
    kept = {name: value for name, value in config.items() if name not in _FREE_SETTINGS}
    return json.loads(json.dumps(kept))


def read_checkpoint(directory: Path | None, config: dict[str, Any]) -> Checkpoint:
    """Read the checkpoint of a run with this configuration.

    Raises:
        ArgumentError: If there is no directory.
        CheckpointError: (a ValueError) If there is no checkpoint, or it belongs to another run.
    """
    if directory is None:
        raise ArgumentError("resume=True needs checkpoint_dir, where the checkpoint lies.")
    checkpoint = load_checkpoint(directory)
    before = checkpoint.value("config")
    differing = sorted(name for name in {*before, *config} if before.get(name) != config.get(name))
    if differing:
        raise CheckpointError(
            f"the checkpoint in {os.fspath(directory)!r} belongs to another run: "
            f"{', '.join(differing)} differ. Resume with the settings it was made with."
        )
    return checkpoint


def ask_callbacks(callbacks: Sequence[Callback], step: Step) -> str | None:
    """Show a step to all callbacks; return the reason to stop of the first that wants to."""
    stopping = [callback for callback in callbacks if callback(step)]
    return getattr(stopping[0], "stop_reason", "callback") if stopping else None
