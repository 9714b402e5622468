"""A run: evaluates what an optimizer asks, records, checkpoints, stops and resumes."""

import dataclasses
import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from pellucid.core import (
    DEFAULT_INIT_TRIGGER,
    ArgumentError,
    CheckpointError,
    OptimizerResult,
    RequirementError,
    Targets,
    Template,
    check_templates,
)
from pellucid.optimizers._best import RunningBest
from pellucid.optimizers._checkpoint import (
    Checkpoint,
    load_checkpoint,
    pack,
    save_checkpoint,
    unpack,
)
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, Search
from pellucid.optimizers._random import StepRandom, draw_seed
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._step import Callback, Step

# What may differ between a run and its continuation.
_FREE_SETTINGS = ("hparam/num_steps", "hparam/checkpoint_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Progress:
    """A run after a whole step; replaced in one assignment, so that no interrupt can split it."""

    step: int
    state: SearchState
    best: RunningBest
    initial_loss: float
    elapsed_s: float
    usage: dict[str, dict[str, int]]


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
        initial_trigger: str | None,
        targets: Targets | None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None,
        resume: bool,
        callbacks: Sequence[Callback],
    ) -> None:
        self._optimizer = optimizer
        self._templates = check_templates(templates, targets)
        self._trigger = DEFAULT_INIT_TRIGGER if initial_trigger is None else initial_trigger
        self._targets = targets
        self._callbacks = tuple(callbacks)
        self._directory = None if checkpoint_dir is None else Path(checkpoint_dir)
        self._losses: list[float] = []
        self._triggers: list[str] = []
        self._progress: _Progress | None = None
        # What the last round added; a checkpoint leaves it out, so that a longer run goes on as if
        # there had been none.
        self._outcome: _Progress | None = None
        self._result: OptimizerResult | None = None
        self._stop_reason = "failed"
        self._resumed = self._read_checkpoint() if resume else None
        self.seed = self._choose_seed()
        self._steps = self._iterate()

    @property
    def first_step(self) -> int:
        """The number of the first step that this run computes: 1 unless it is resumed."""
        return 1 if self._resumed is None else int(self._resumed.values["step"]) + 1

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
        if self._resumed is not None:
            note["resume_from_step"] = self.first_step - 1
        lifecycle = self._optimizer.run(self._templates, self._trigger, self._targets, note)
        with lifecycle as templates:
            problem = self._optimizer.make_problem()
            problem.set_inputs(templates, self._targets)
            try:
                yield from self._walk(problem)
            except (KeyboardInterrupt, GeneratorExit):
                self._stop_reason = "interrupted"
                raise
            finally:
                self._conclude(problem)

    def _walk(self, problem: Problem) -> Generator[Step]:
        began = time.perf_counter()
        progress = self._begin(problem) if self._resumed is None else self._restore(self._resumed)
        self._progress = progress
        already = progress.elapsed_s
        while (reason := self._find_stop(progress)) is None:
            random = StepRandom(self.seed, progress.step + 1)
            state = self._drive(problem, self._optimizer.step(problem, progress.state, random))
            elapsed_s = already + time.perf_counter() - began
            progress, step = self._record(problem, progress, state, elapsed_s)
            stopping = [callback for callback in self._callbacks if callback(step)]
            yield step
            if stopping:
                reason = getattr(stopping[0], "stop_reason", "callback")
                break
        self._finish(problem, progress)
        self._stop_reason = reason

    def _finish(self, problem: Problem, progress: _Progress) -> None:
        random = StepRandom(self.seed, -1)
        state = self._drive(problem, self._optimizer.conclude(problem, progress.state, random))
        (text,) = problem.decode(state.trigger_ids[None])
        best = progress.best.update(state, text)
        self._outcome = dataclasses.replace(progress, best=best, usage=self._read_usage())

    def _drive(self, problem: Problem, moves: Moves[Any]) -> SearchState:
        try:
            candidates = next(moves)
            while True:
                candidates = moves.send(problem.compute_losses(candidates))
        except StopIteration as done:
            return done.value
        finally:
            # A step may hold the model to some templates; after a failure it must let go at once.
            moves.close()

    def _begin(self, problem: Problem) -> _Progress:
        trigger_ids = problem.encode(self._trigger)
        if len(trigger_ids) == 0:
            raise ArgumentError(
                f"the initial trigger {self._trigger!r} has no tokens. Give it at least one; its "
                "length is the length of the triggers searched."
            )
        loss = float(problem.compute_losses(trigger_ids[None])[0])
        (text,) = problem.decode(trigger_ids[None])
        state = self._optimizer.start(problem, trigger_ids, loss)
        return _Progress(
            step=0,
            state=state,
            best=RunningBest().update(state, text),
            initial_loss=loss,
            elapsed_s=0.0,
            usage=self._read_usage(),
        )

    def _record(
        self, problem: Problem, before: _Progress, state: SearchState, elapsed_s: float
    ) -> tuple[_Progress, Step]:
        (text,) = problem.decode(state.trigger_ids[None])
        usage = self._read_usage()
        after = dataclasses.replace(
            before,
            step=before.step + 1,
            state=state,
            best=before.best.update(state, text),
            elapsed_s=elapsed_s,
            usage=usage,
        )
        step = Step(
            step=after.step,
            loss=state.loss,
            best_loss=after.best.loss,
            trigger=text,
            best_trigger=after.best.trigger_str or "",
            elapsed_s=elapsed_s,
            tokens=sum(stats["total_tokens"] for stats in usage.values()),
        )
        self._losses.append(state.loss)
        self._triggers.append(text)
        self._optimizer.tracker.log(step.to_record())
        self._progress = after
        if self._directory is not None and after.step % self._optimizer.checkpoint_every == 0:
            self._save(self._directory, after)
        return after, step

    def _find_stop(self, progress: _Progress) -> str | None:
        if progress.step >= self._optimizer.num_steps:
            return "steps"
        if self._optimizer.is_finished(progress.state):
            return "converged"
        return "budget" if self._optimizer.is_budget_spent(progress.elapsed_s) else None

    def _conclude(self, problem: Problem) -> None:
        progress = self._progress
        if progress is None:
            return
        if self._directory is not None:
            self._save(self._directory, progress)
        progress = self._outcome or progress
        best = progress.best
        # A soft trigger is no text: its nearest tokens have another loss.
        trigger_ids = best.trigger_ids if best.trigger_embeds is None else None
        self._result = OptimizerResult(
            best_loss=best.loss,
            best_trigger_ids=trigger_ids,
            best_trigger_str=None if trigger_ids is None else best.trigger_str,
            best_trigger_emb=best.trigger_embeds,
            losses=self._losses[: progress.step],
            trigger_strs=self._triggers[: progress.step],
            initial_loss=progress.initial_loss,
            stop_reason=self._stop_reason,
            seed=self.seed,
            usage=progress.usage["model"],
        )
        # After a failure the model cannot be trusted to answer once more.
        if self._stop_reason != "failed" and trigger_ids is not None:
            verified, gap = problem.verify(trigger_ids)
            self._result.verified_loss, self._result.tokenization_gap = verified, gap
        self._optimizer.summarize(self._result)

    def _read_usage(self) -> dict[str, dict[str, int]]:
        models = {"model": self._optimizer.model, **self._optimizer.auxiliary_models()}
        return {name: model.get_usage_stats() for name, model in models.items()}

    def _describe(self) -> dict[str, Any]:
        config = self._optimizer.describe(self._templates, self._trigger, self._targets)
        kept = {name: value for name, value in config.items() if name not in _FREE_SETTINGS}
        return json.loads(json.dumps(kept))

    def _choose_seed(self) -> int:
        if self._resumed is not None:
            return int(self._resumed.values["seed"])
        return draw_seed() if self._optimizer.seed is None else self._optimizer.seed

    def _save(self, directory: Path, progress: _Progress) -> None:
        state, best = pack("state", progress.state), pack("best", progress.best)
        values = {
            "step": progress.step,
            "seed": self.seed,
            "initial_loss": progress.initial_loss,
            "elapsed_s": progress.elapsed_s,
            "usage": progress.usage,
            "losses": self._losses[: progress.step],
            "triggers": self._triggers[: progress.step],
            "config": self._describe(),
        }
        tensors = {**state.tensors, **best.tensors}
        save_checkpoint(directory, Checkpoint(tensors, {**values, **state.values, **best.values}))

    def _read_checkpoint(self) -> Checkpoint:
        if self._directory is None:
            raise ArgumentError("resume=True needs checkpoint_dir, where the checkpoint lies.")
        checkpoint = load_checkpoint(self._directory)
        before, now = checkpoint.values.get("config", {}), self._describe()
        differing = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if differing:
            raise CheckpointError(
                f"the checkpoint in {os.fspath(self._directory)!r} belongs to another run: "
                f"{', '.join(differing)} differ. Resume with the settings it was made with."
            )
        return checkpoint

    def _restore(self, checkpoint: Checkpoint) -> _Progress:
        values = checkpoint.values
        self._losses, self._triggers = list(values["losses"]), list(values["triggers"])
        models = {"model": self._optimizer.model, **self._optimizer.auxiliary_models()}
        for name, stats in values["usage"].items():
            models[name].restore_usage_stats(stats)
        return _Progress(
            step=values["step"],
            state=unpack("state", checkpoint, self._optimizer.state_type),
            best=unpack("best", checkpoint, RunningBest),
            initial_loss=values["initial_loss"],
            elapsed_s=values["elapsed_s"],
            usage=values["usage"],
        )
