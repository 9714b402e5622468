"""The facade of an optimizer, and the simple kind of step: ask once, be told once."""

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.core import InitialTrigger, OptimizerResult, Targets, Template
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, Search, StateT
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._restarts import Restarts, RestartsResult, share_out
from pellucid.optimizers._run import Run
from pellucid.optimizers._step import Callback


class SearchOptimizer(Search[StateT]):
    """A whole run in one call, or step by step; subclasses give `start` and `step`."""

    owns_life_cycle = True

    def iterate(
        self,
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None = None,
        targets: Targets | None = None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Run:
        """Return the run as an iterator of steps, which holds the result afterwards.

        Args:
            templates: Texts or conversations with the placeholder, numbered where the trigger has
                parts.
            initial_trigger: Where to start, a list of texts if the trigger has parts; twenty
                exclamation marks, shared out among the parts, when omitted.
            targets: One entry for each template.
            checkpoint_dir: Where to keep a checkpoint; none is kept when omitted.
            resume: Whether to go on from the checkpoint in `checkpoint_dir`, bit for bit.
            callbacks: Called after each step; one that returns True ends the run.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be.
            CheckpointError: (a ValueError) If there is nothing to resume, or it belongs to another
                run.
        """
        return Run(
            self,
            templates,
            initial_trigger,
            targets,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            callbacks=callbacks,
        )

    def optimize_trigger(
        self,
        templates: Sequence[Template],
        initial_trigger: InitialTrigger | None = None,
        targets: Targets | None = None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> OptimizerResult:
        """Search for a trigger; arguments, result and errors are those of `iterate`.

        Args:
            templates: Texts or conversations with the placeholder, numbered where the trigger has
                parts.
            initial_trigger: Where to start, a list of texts if the trigger has parts; twenty
                exclamation marks, shared out among the parts, when omitted.
            targets: One entry for each template.
            checkpoint_dir: Where to keep a checkpoint; none is kept when omitted.
            resume: Whether to go on from the checkpoint in `checkpoint_dir`, bit for bit.
            callbacks: Called after each step; one that returns True ends the run.
            progress: Whether to show a progress bar when the output is a terminal.
        """
        run = self.iterate(
            templates,
            initial_trigger,
            targets,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            callbacks=callbacks,
        )
        self._show(run, progress)
        return run.result()

    def iterate_restarts(
        self,
        templates: Sequence[Template],
        initial_triggers: str | Sequence[InitialTrigger] | None = None,
        targets: Targets | None = None,
        *,
        n_restarts: int | None = None,
        seeds: Sequence[int] | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Restarts:
        """Return several independent runs, evaluated together, as one iterator of their steps.

        Args:
            templates: Texts or conversations with the placeholder.
            initial_triggers: Where each run starts, or where all do; twenty exclamation marks when
                omitted.
            targets: One entry for each template.
            n_restarts: The number of runs; that of triggers or seeds when omitted.
            seeds: Of each run. When omitted, the first has the optimizer's, and the others have
                seeds derived from it.
            checkpoint_dir: Where to keep a checkpoint of all; none is kept when omitted.
            resume: Whether to go on from the checkpoint in `checkpoint_dir`, bit for bit.
            callbacks: Called after each step; one that returns True ends all runs.

        Raises:
            ArgumentError: If numbers disagree.
            TemplateError: If a template or the number of targets is not as it must be.
            CheckpointError: (a ValueError) If there is nothing to resume, or it belongs to others.
        """
        return Restarts(
            self,
            templates,
            share_out(initial_triggers, n_restarts, seeds),
            targets,
            seeds=seeds,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            callbacks=callbacks,
        )

    def optimize_triggers(
        self,
        templates: Sequence[Template],
        initial_triggers: str | Sequence[InitialTrigger] | None = None,
        targets: Targets | None = None,
        *,
        n_restarts: int | None = None,
        seeds: Sequence[int] | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> RestartsResult:
        """Search from several starts at once; arguments and errors are those of `iterate_restarts`.

        Args:
            templates: Texts or conversations with the placeholder.
            initial_triggers: Where each run starts, or where all do.
            targets: One entry for each template.
            n_restarts: The number of runs; that of triggers or seeds when omitted.
            seeds: Of each run; made from the optimizer's when omitted.
            checkpoint_dir: Where to keep a checkpoint of all; none is kept when omitted.
            resume: Whether to go on from the checkpoint in `checkpoint_dir`, bit for bit.
            callbacks: Called after each step; one that returns True ends all runs.
            progress: Whether to show a progress bar when the output is a terminal.

        Returns:
            Each run's result, and the best.
        """
        runs = self.iterate_restarts(
            templates,
            initial_triggers,
            targets,
            n_restarts=n_restarts,
            seeds=seeds,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            callbacks=callbacks,
        )
        self._show(runs, progress)
        return runs.result()

    def _show(self, run: Run | Restarts, progress: bool) -> None:
        """Iterate to the end."""
        # None lets tqdm show itself on a terminal only.
        hidden = None if progress else True
        with tqdm(run, total=self.num_steps, initial=run.first_step - 1, disable=hidden) as bar:
            for step in bar:
                bar.set_postfix_str(f"best {step.best_loss:.4f} {step.best_trigger!r}")


class AskTellOptimizer(SearchOptimizer[StateT]):
    """An optimizer whose steps are one round of candidates: it asks, and is told their losses.

    A subclass gives `ask`; it gives `start` and `tell`, too, if it remembers more than the current
    trigger, or moves otherwise than to the best candidate.
    """

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> Any:
        """Return the state before the first step."""
        del problem
        return self.state_type(trigger_ids=trigger_ids, loss=loss)

    def step(self, problem: Problem, state: StateT, random: StepRandom) -> Moves[StateT]:
        """Ask, and tell."""
        candidates = self.ask(problem, state, random)
        losses = yield candidates
        return self.tell(state, candidates, losses)

    @abstractmethod
    def ask(
        self, problem: Problem, state: StateT, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Propose candidates.

        Args:
            problem: Gradients, decoding and the retokenization filter.
            state: Where the search stands.
            random: The step's source of randomness.

        Returns:
            Token ids, int64, of shape (n_candidates, trigger_pos), on the CPU.
        """

    def tell(
        self,
        state: StateT,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        losses: Float[Tensor, " n_candidates"],
    ) -> StateT:
        """Return the next state; by default at the best candidate, better than before or not."""
        lowest = int(losses.argmin())
        trigger_ids = candidates[lowest].clone()
        return dataclasses.replace(state, trigger_ids=trigger_ids, loss=float(losses[lowest]))
