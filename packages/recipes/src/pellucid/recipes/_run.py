"""One call for a whole published method."""

import os
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pellucid.core import (
    ArgumentError,
    BaseModel,
    BaseTracker,
    Budget,
    InitialTrigger,
    OptimizerResult,
    Targets,
    Template,
)
from pellucid.optimizers import Callback
from pellucid.recipes._listing import get_recipe
from pellucid.recipes._order import Order
from pellucid.recipes._recipe import RandomStart, Recipe

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def run(
    name: str | Recipe,
    *,
    model: BaseModel | str,
    templates: Sequence[Template],
    targets: Targets | Sequence[str] | None = None,
    seed: int | None = None,
    initial_trigger: InitialTrigger | None = None,
    num_steps: int | None = None,
    tracker: BaseTracker | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    overrides: Mapping[str, Any] = _NOTHING,
    loss_overrides: Mapping[str, Mapping[str, Any]] = _NOTHING,
    proxy_model: BaseModel | str | None = None,
    draft_model: BaseModel | str | None = None,
    util_lm: BaseModel | str | None = None,
    judge: BaseModel | str | None = None,
    teacher_model: BaseModel | str | None = None,
    budget: Budget | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> OptimizerResult:
    """Search for a trigger by a published method.

    All is validated, and `check_compatibility` asked, before any model computes anything.

    Args:
        name: The recipe, or its name.
        model: The model under test, or a text that `load_model` reads. A model that is given must
            have been made with the recipe's `model_options`.
        templates: Texts or conversations with the placeholder.
        targets: What to bring about, one entry for each template. A list of texts are responses
            of a language model, or texts whose vectors an encoder's are to approach.
        seed: Makes the run repeatable; drawn, and recorded in the result, when omitted.
        initial_trigger: Where to start; the recipe's own choice when omitted.
        num_steps: The number of steps; the recipe's when omitted.
        tracker: Where to record.
        checkpoint_dir: Where to keep a checkpoint; none is kept when omitted.
        checkpoint_every: Steps between checkpoints; the optimizer's choice when omitted.
        resume: Whether to go on from the checkpoint, bit for bit.
        overrides: Settings of the optimizer to put in place of the recipe's.
        loss_overrides: By name of a loss of the recipe, settings of it; `weight` is its factor.
        proxy_model: Proposes or ranks candidates for a target that is a black box.
        draft_model: Judges candidates before the target does.
        util_lm: Proposes tokens.
        judge: Is asked about texts.
        teacher_model: Gives the logits to imitate.
        budget: Ends the run once it is used up.
        callbacks: Called after each step; one that returns True ends the run.
        progress: Whether to show a progress bar when the output is a terminal.

    Returns:
        The best trigger and the run's history.

    Raises:
        UnknownNameError: (a ValueError) If there is no such recipe, setting or loss.
        ArgumentError: (a ValueError) If a target is missing, or a value has no meaning.
        RequirementError: (a TypeError) If a further model is missing or has no role, or parts do
            not go together.
        TemplateError: (a ValueError) If a template is not as it must be.
    """
    helpers = _drop_none(
        proxy_model=proxy_model,
        draft_model=draft_model,
        util_lm=util_lm,
        judge=judge,
        teacher_model=teacher_model,
    )
    recipe = name if isinstance(name, Recipe) else get_recipe(name)
    order = Order(
        recipe=recipe,
        model=model,
        templates=templates,
        targets=targets,
        seed=_draw_seed(recipe, initial_trigger) if seed is None and not resume else seed,
        initial_trigger=initial_trigger,
        overrides=_merge(overrides, num_steps),
        loss_overrides=loss_overrides,
        helpers=helpers,
    )
    ready = order.assemble(tracker, budget, checkpoint_every)
    return ready.optimizer.optimize_trigger(
        ready.templates,
        ready.trigger,
        ready.complete_targets(),
        checkpoint_dir=checkpoint_dir,
        resume=resume,
        callbacks=callbacks,
        progress=progress,
    )


def _drop_none(**given: BaseModel | str | None) -> dict[str, BaseModel | str]:
    return {name: held for name, held in given.items() if held is not None}


def _draw_seed(recipe: Recipe, initial_trigger: InitialTrigger | None) -> int | None:
    # Otherwise the run draws one itself, and a checkpoint knows it.
    is_random = initial_trigger is None and isinstance(recipe.initial_trigger, RandomStart)
    return secrets.randbelow(2**31) if is_random else None


def _merge(overrides: Mapping[str, Any], num_steps: int | None) -> Mapping[str, Any]:
    if num_steps is None:
        return overrides
    if "num_steps" in overrides:
        raise ArgumentError(
            f"num_steps={num_steps} is given beside overrides={{'num_steps': "
            f"{overrides['num_steps']!r}}}. Give one of them."
        )
    return {**overrides, "num_steps": num_steps}
