"""The facade of an ask/tell optimizer: a whole run in one call, or step by step."""

import os
from collections.abc import Sequence

from tqdm.auto import tqdm

from pellucid.core import OptimizerResult, Targets, Template
from pellucid.optimizers._protocol import AskTell
from pellucid.optimizers._run import Run
from pellucid.optimizers._step import Callback


class AskTellOptimizer(AskTell):
    """An optimizer that decides, and leaves evaluating, recording and resuming to a `Run`."""

    owns_life_cycle = True

    def iterate(
        self,
        templates: Sequence[Template],
        initial_trigger: str | None = None,
        targets: Targets | None = None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Run:
        """Return the run as an iterator of steps, which holds the result afterwards.

        Args:
            templates: Texts or conversations, each with the placeholder exactly once.
            initial_trigger: Where to start; twenty exclamation marks when omitted.
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
        initial_trigger: str | None = None,
        targets: Targets | None = None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> OptimizerResult:
        """Search for a trigger; arguments, result and errors are those of `iterate`.

        Args:
            templates: Texts or conversations, each with the placeholder exactly once.
            initial_trigger: Where to start; twenty exclamation marks when omitted.
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
        # None lets tqdm show itself on a terminal only.
        hidden = None if progress else True
        with tqdm(run, total=self.num_steps, initial=run.first_step - 1, disable=hidden) as bar:
            for step in bar:
                bar.set_postfix_str(f"best {step.best_loss:.4f} {step.best_trigger!r}")
        return run.result()
