"""One search from its first trigger to its last: every step, and all that a checkpoint keeps."""

import dataclasses
import time
from collections.abc import Generator
from typing import Any

from pellucid.core import ArgumentError, CheckpointError, OptimizerResult
from pellucid.optimizers._best import RunningBest
from pellucid.optimizers._checkpoint import Checkpoint, pack, unpack
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, Search
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._step import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """A search after a whole step; never changed, so that no interrupt can split it."""

    step: int
    state: SearchState
    best: RunningBest
    initial_loss: float
    elapsed_s: float
    usage: dict[str, dict[str, int]]


class Walk:
    """The steps of one search. Whoever drives it records, checkpoints and tells it to stop.

    Attributes:
        seed: Of its randomness.
        stop_reason: Why it ended; "failed" until it did.
        origin: Where it began or was resumed; None before.
        latest: Where it is; None before it began.

    Args:
        optimizer: Decides.
        trigger: Where to start.
        seed: Of its randomness; the checkpoint's if there is one.
        checkpoint: Where to go on from, instead.

    Raises:
        CheckpointError: (a ValueError) If the checkpoint lacks something.
    """

    def __init__(
        self, optimizer: Search[Any], trigger: str, seed: int, checkpoint: Checkpoint | None = None
    ) -> None:
        self._optimizer = optimizer
        self._trigger = trigger
        self._stop: str | None = None
        self._losses: list[float] = []
        self._triggers: list[str] = []
        # What the last round added; a checkpoint leaves it out, so that a longer run goes on as if
        # there had been none.
        self._outcome: Progress | None = None
        self.seed = seed
        self.stop_reason = "failed"
        self.origin = None if checkpoint is None else self._unpack(checkpoint)
        self.latest = self.origin

    @property
    def n_steps_before(self) -> int:
        """The number of steps made before the walk was resumed."""
        return 0 if self.origin is None else self.origin.step

    def stop(self, reason: str) -> None:
        """End the walk before its next step, as regularly as when all steps are made."""
        self._stop = self._stop or reason

    def steps(self, problem: Problem) -> Generator[Step]:
        """Make the steps, one whenever asked."""
        began = time.perf_counter()
        if self.latest is None:
            self.origin = self.latest = self._begin(problem)
        already = self.latest.elapsed_s
        while (reason := self._find_stop(self.latest)) is None:
            random = StepRandom(self.seed, self.latest.step + 1)
            moves = self._optimizer.step(problem, self.latest.state, random)
            state = _drive(problem, moves)
            elapsed_s = already + time.perf_counter() - began
            self.latest, step = self._take(problem, self.latest, state, elapsed_s)
            yield step
        self._finish(problem, self.latest)
        self.stop_reason = reason

    def result(self, problem: Problem, progress: Progress) -> OptimizerResult:
        """Return what was found up to some progress, and after the last round if it was made."""
        shown = self._outcome or progress
        best = shown.best
        # A soft trigger is no text: its nearest tokens have another loss.
        trigger_ids = best.trigger_ids if best.trigger_embeds is None else None
        result = OptimizerResult(
            best_loss=best.loss,
            best_trigger_ids=trigger_ids,
            best_trigger_str=None if trigger_ids is None else best.trigger_str,
            best_trigger_emb=best.trigger_embeds,
            losses=self._losses[: shown.step],
            trigger_strs=self._triggers[: shown.step],
            initial_loss=shown.initial_loss,
            stop_reason=self.stop_reason,
            seed=self.seed,
            usage=shown.usage["model"],
            part_lengths=None if problem.part_lengths is None else list(problem.part_lengths),
        )
        # After a failure the model cannot be trusted to answer once more.
        if self.stop_reason != "failed" and trigger_ids is not None:
            result.verified_loss, result.tokenization_gap = problem.verify(trigger_ids)
        return result

    def pack(self, progress: Progress) -> Checkpoint:
        """Return what is needed to go on from some progress."""
        state, best = pack("state", progress.state), pack("best", progress.best)
        values = {
            "step": progress.step,
            "seed": self.seed,
            "initial_loss": progress.initial_loss,
            "elapsed_s": progress.elapsed_s,
            "usage": progress.usage,
            "losses": self._losses[: progress.step],
            "triggers": self._triggers[: progress.step],
        }
        tensors = {**state.tensors, **best.tensors}
        return Checkpoint(tensors, {**values, **state.values, **best.values})

    def _unpack(self, checkpoint: Checkpoint) -> Progress:
        losses, triggers = checkpoint.value("losses"), checkpoint.value("triggers")
        self._losses, self._triggers = list(losses), list(triggers)
        self.seed = int(checkpoint.value("seed"))
        return Progress(
            step=int(checkpoint.value("step")),
            state=unpack("state", checkpoint, self._optimizer.state_type),
            best=unpack("best", checkpoint, RunningBest),
            initial_loss=float(checkpoint.value("initial_loss")),
            elapsed_s=float(checkpoint.value("elapsed_s")),
            usage=checkpoint.value("usage"),
        )

    def _begin(self, problem: Problem) -> Progress:
        constraints = getattr(self._optimizer, "token_constraints", None)
        if constraints is not None:
            # Constraints that admit nothing are refused before anything is computed.
            problem.allowed_ids(constraints)
        trigger_ids = problem.encode(self._trigger)
        if len(trigger_ids) == 0:
            raise ArgumentError(
                f"the initial trigger {self._trigger!r} has no tokens. Give it at least one; its "
                "length is the length of the triggers searched."
            )
        self._optimizer.check_start(problem, trigger_ids)
        loss = float(problem.compute_losses(trigger_ids[None])[0])
        (text,) = problem.decode(trigger_ids[None])
        state = self._optimizer.start(problem, trigger_ids, loss)
        return Progress(
            step=0,
            state=state,
            best=RunningBest().update(state, text),
            initial_loss=loss,
            elapsed_s=0.0,
            usage=read_usage(self._optimizer),
        )

    def _take(
        self, problem: Problem, before: Progress, state: SearchState, elapsed_s: float
    ) -> tuple[Progress, Step]:
        (text,) = problem.decode(state.trigger_ids[None])
        after = dataclasses.replace(
            before,
            step=before.step + 1,
            state=state,
            best=before.best.update(state, text),
            elapsed_s=elapsed_s,
            usage=read_usage(self._optimizer),
        )
        self._losses.append(state.loss)
        self._triggers.append(text)
        step = Step(
            step=after.step,
            loss=state.loss,
            best_loss=after.best.loss,
            trigger=text,
            best_trigger=after.best.trigger_str or "",
            elapsed_s=elapsed_s,
            tokens=sum(stats["total_tokens"] for stats in after.usage.values()),
        )
        return after, step

    def _find_stop(self, progress: Progress) -> str | None:
        if self._stop is not None:
            return self._stop
        if progress.step >= self._optimizer.num_steps:
            return "steps"
        if self._optimizer.is_finished(progress.state):
            return "converged"
        return "budget" if self._optimizer.is_budget_spent(progress.elapsed_s) else None

    def _finish(self, problem: Problem, progress: Progress) -> None:
        random = StepRandom(self.seed, -1)
        state = _drive(problem, self._optimizer.conclude(problem, progress.state, random))
        (text,) = problem.decode(state.trigger_ids[None])
        best = progress.best.update(state, text)
        usage = read_usage(self._optimizer)
        self._outcome = dataclasses.replace(progress, best=best, usage=usage)


def read_usage(optimizer: Search[Any]) -> dict[str, dict[str, int]]:
    """Return what the models of an optimizer have used, by role."""
    return {name: model.get_usage_stats() for name, model in _models(optimizer).items()}


def restore_usage(optimizer: Search[Any], usage: dict[str, dict[str, int]]) -> None:
    """Let the models of an optimizer count on from what a checkpoint says."""
    models = _models(optimizer)
    for name, stats in usage.items():
        if name not in models:
            raise CheckpointError(f"the checkpoint counts the usage of {name!r}: no such model.")
        models[name].restore_usage_stats(stats)


def _models(optimizer: Search[Any]) -> dict[str, Any]:
    return {"model": optimizer.model, **optimizer.auxiliary_models()}


def _drive(problem: Problem, moves: Moves[Any]) -> SearchState:
    try:
        candidates = next(moves)
        while True:
            candidates = moves.send(problem.compute_losses(candidates))
    except StopIteration as done:
        return done.value
    finally:
        # A step may hold the model to some templates; after a failure it must let go at once.
        moves.close()
