"""Several runs of one optimizer in lock step, evaluated together."""

import dataclasses
import functools
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.core import (
    ArgumentError,
    InitialTrigger,
    OptimizerResult,
    RequirementError,
    Targets,
    Template,
    check_templates,
    choose_start,
    count_parts,
)
from pellucid.optimizers._checkpoint import Checkpoint, save_checkpoint
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Search
from pellucid.optimizers._questions import answer_together
from pellucid.optimizers._random import derive_seed, draw_seed
from pellucid.optimizers._run import ask_callbacks, describe, read_checkpoint
from pellucid.optimizers._step import Callback, Step
from pellucid.optimizers._strands import Strand, weave
from pellucid.optimizers._walk import Progress, Walk, restore_usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestartsStep(Step):
    """One step of several runs: the best of theirs, and each.

    `loss` and `trigger` are the lowest of this step, `best_loss` and `best_trigger` of all so far.

    Attributes:
        steps: The step of each run that has not ended, by the run's number, counted from 0.
    """

    steps: Mapping[int, Step]

    def to_record(self) -> dict[str, Any]:
        """Return what a tracker records of a step: each run's loss besides."""
        losses = {f"restart_{i}/loss": step.loss for i, step in self.steps.items()}
        return {**super().to_record(), **losses}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestartsResult:
    """What several runs found.

    Attributes:
        results: Each run's result, in the order of their triggers and seeds; `usage` is that of all
            runs together.
    """

    results: list[OptimizerResult]

    @property
    def best(self) -> OptimizerResult:
        """The result of the lowest loss; the first of equals."""
        return min(self.results, key=lambda result: result.best_loss)


class Restarts(Iterator[RestartsStep]):
    """Independent runs of one optimizer that take their steps together, as an iterator of these.

    Each is the run that its trigger and seed give on their own. What they ask of the models at the
    same time is asked in one call: losses, the tokens of lowest gradient, gradients at relaxed
    tokens and at embeddings, logits; candidates that occur in several are evaluated once. Asked
    run by run is what is an average over many triggers, and so a batch already: GASLITE's gradient
    over copies, say. A run that ends before the others leaves them to it.

    There is one record a step, one checkpoint, and one budget, for all runs together. As with a
    `Run`, leaving the loop early ends it after the last whole step; one failing run fails all.

    Args:
        optimizer: Decides; it remembers nothing, so one serves all runs.
        templates: As in `SearchOptimizer.iterate_restarts`, and so are the others.
        initial_triggers: Where each run starts.
        targets: One entry for each template.
        seeds: Of each run; made from the optimizer's seed when None.
        checkpoint_dir: Where to keep a checkpoint.
        resume: Whether to go on from there.
        callbacks: Called after each step.
    """

    def __init__(
        self,
        optimizer: Search[Any],
        templates: Sequence[Template],
        initial_triggers: Sequence[InitialTrigger | None],
        targets: Targets | None,
        *,
        seeds: Sequence[int] | None,
        checkpoint_dir: str | os.PathLike[str] | None,
        resume: bool,
        callbacks: Sequence[Callback],
    ) -> None:
        # Refuses a budget in what the models do not count.
        optimizer.is_budget_spent()
        self._optimizer = optimizer
        self._templates = check_templates(templates, targets)
        self._targets = targets
        self._callbacks = tuple(callbacks)
        self._directory = None if checkpoint_dir is None else Path(checkpoint_dir)
        starts = _read_starts(initial_triggers, count_parts(self._templates))
        # Parts have the same lengths in all runs.
        self._start = starts[0]
        self._settings = {
            "initial_triggers": starts,
            "seeds": None if seeds is None else list(seeds),
        }
        checkpoints = self._read_checkpoints() if resume else [None] * len(initial_triggers)
        if seeds is None:
            seeds = _make_seeds(optimizer.seed, len(initial_triggers))
        self._walks = [
            Walk(optimizer, *start) for start in zip(starts, seeds, checkpoints, strict=True)
        ]
        self._is_resumed = resume
        self._kept: tuple[Progress, ...] | None = None
        self._result: RestartsResult | None = None
        self._steps = self._iterate()

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [walk.seed for walk in self._walks]

    @property
    def first_step(self) -> int:
        """The number of the first step that is computed: 1 unless the runs are resumed."""
        return max(walk.n_steps_before for walk in self._walks) + 1

    def __next__(self) -> RestartsStep:
        return next(self._steps)

    def close(self) -> None:
        """End all runs after their last whole step."""
        self._steps.close()

    def result(self) -> RestartsResult:
        """Return what the runs found.

        Raises:
            RequirementError: While they go on, and when they failed before their first losses.
        """
        if self._result is None:
            raise RequirementError(
                "the runs have no result yet. Iterate over them to the end, or call close() after "
                "at least one step."
            )
        return self._result

    def _iterate(self) -> Generator[RestartsStep]:
        note: dict[str, Any] = {**self._settings, "seeds": self.seeds}
        if self._is_resumed:
            note["resume_from_step"] = self.first_step - 1
        with self._optimizer.run(self._templates, None, self._targets, note) as templates:
            problem = self._optimizer.make_problem()
            problem.set_inputs(templates, self._targets)
            problem.hold_parts(self._start)
            if (origin := _latest([walk.origin for walk in self._walks])) is not None:
                restore_usage(self._optimizer, origin.usage)
            try:
                yield from self._follow(problem)
            except (KeyboardInterrupt, GeneratorExit):
                for walk in self._walks:
                    walk.stop_reason = "interrupted"
                raise
            finally:
                self._conclude(problem)

    def _follow(self, problem: Problem) -> Generator[RestartsStep]:
        strands = [Strand() for _ in self._walks]
        walking = {
            i: walk.steps(problem.put_through(strands[i].ask)) for i, walk in enumerate(self._walks)
        }
        while walking:
            taken = weave(
                [strands[i] for i in walking],
                [functools.partial(next, steps, None) for steps in walking.values()],
                answer_together,
            )
            steps = {i: step for i, step in zip(walking, taken, strict=True) if step is not None}
            walking = {i: walking[i] for i in steps}
            if not steps:
                return
            step = self._join(steps)
            self._record(step)
            stop_reason = ask_callbacks(self._callbacks, step)
            yield step
            if stop_reason is not None:
                for walk in self._walks:
                    walk.stop(stop_reason)

    def _join(self, steps: Mapping[int, Step]) -> RestartsStep:
        lowest = min(steps.values(), key=lambda step: step.loss)
        bests = [walk.latest.best for walk in self._walks if walk.latest is not None]
        best = min(bests, key=lambda best: best.loss)
        return RestartsStep(
            step=lowest.step,
            loss=lowest.loss,
            best_loss=best.loss,
            trigger=lowest.trigger,
            best_trigger=best.trigger_str or "",
            elapsed_s=max(step.elapsed_s for step in steps.values()),
            tokens=max(step.tokens for step in steps.values()),
            steps=steps,
        )

    def _record(self, step: RestartsStep) -> None:
        self._optimizer.tracker.log(step.to_record())
        latest = [walk.latest for walk in self._walks]
        # In one assignment, after the record: what is kept was recorded, whenever an interrupt is.
        self._kept = tuple(progress for progress in latest if progress is not None)
        if step.step % self._optimizer.checkpoint_every == 0:
            self._save(self._kept)

    def _conclude(self, problem: Problem) -> None:
        origins = [walk.origin for walk in self._walks if walk.origin is not None]
        if len(origins) < len(self._walks):
            return
        kept = self._kept or tuple(origins)
        self._save(kept)
        pairs = zip(self._walks, kept, strict=True)
        self._result = RestartsResult(results=[walk.result(problem, at) for walk, at in pairs])
        self._optimizer.summarize(self._result.best)

    def _save(self, kept: tuple[Progress, ...]) -> None:
        if self._directory is None:
            return
        held = [walk.pack(at) for walk, at in zip(self._walks, kept, strict=True)]
        tensors = {
            f"{i}/{name}": tensor
            for i, checkpoint in enumerate(held)
            for name, tensor in checkpoint.tensors.items()
        }
        values = {"runs": [checkpoint.values for checkpoint in held], "config": self._describe()}
        save_checkpoint(self._directory, Checkpoint(tensors, values))

    def _read_checkpoints(self) -> list[Checkpoint]:
        whole = read_checkpoint(self._directory, self._describe())
        return [
            Checkpoint(
                {
                    name.removeprefix(f"{i}/"): tensor
                    for name, tensor in whole.tensors.items()
                    if name.startswith(f"{i}/")
                },
                values,
            )
            for i, values in enumerate(whole.value("runs"))
        ]

    def _describe(self) -> dict[str, Any]:
        return describe(self._optimizer, self._templates, None, self._targets, **self._settings)


def share_out(
    initial_triggers: str | Sequence[InitialTrigger] | None,
    n_restarts: int | None,
    seeds: Sequence[int] | None,
) -> list[InitialTrigger | None]:
    """Return where each run starts, as many as triggers, seeds and their number say.

    Raises:
        ArgumentError: If these disagree, or say nothing.
    """
    shared = initial_triggers if isinstance(initial_triggers, str) else None
    own = None if isinstance(initial_triggers, str) else initial_triggers
    counts = {
        "n_restarts": n_restarts,
        "initial_triggers": None if own is None else len(own),
        "seeds": None if seeds is None else len(seeds),
    }
    given = {name: count for name, count in counts.items() if count is not None}
    if len(set(given.values())) != 1 or min(given.values()) < 1:
        raise ArgumentError(
            "pass n_restarts, a list of initial_triggers or seeds, one or more, and as many of "
            f"each; got {given!r}."
        )
    return [shared] * min(given.values()) if own is None else list(own)


def _read_starts(initial_triggers: Sequence[InitialTrigger | None], n_parts: int) -> list[str]:
    starts = [choose_start(trigger, n_parts) for trigger in initial_triggers]
    if n_parts > 1 and len(set(starts)) > 1:
        raise ArgumentError(
            f"the trigger has {n_parts} parts, whose lengths all runs have in common; got the "
            f"initial triggers {starts!r}. Start all runs from one, with seeds of their own."
        )
    return starts


def _make_seeds(seed: int | None, n_restarts: int) -> list[int]:
    if seed is None:
        return [draw_seed() for _ in range(n_restarts)]
    # The first run is the one that the optimizer makes without restarts.
    return [seed, *(derive_seed(seed, f"restart {i}") for i in range(1, n_restarts))]


def _latest(origins: Sequence[Progress | None]) -> Progress | None:
    begun = [origin for origin in origins if origin is not None]
    return max(begun, key=lambda origin: origin.step, default=None)
