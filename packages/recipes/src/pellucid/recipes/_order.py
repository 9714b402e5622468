"""From what a caller asks for to an optimizer that is ready to run."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pellucid.core import (
    ArgumentError,
    BaseModel,
    BaseTracker,
    Budget,
    InitialTrigger,
    RequirementError,
    Targets,
    Template,
    check_compatibility,
    check_templates,
)
from pellucid.optimizers import SearchOptimizer
from pellucid.recipes._goals import (
    add_logits,
    add_vectors,
    ban_targets,
    check_teacher,
    check_vectors,
    choose_trigger,
    find_tokenizer,
    read_targets,
)
from pellucid.recipes._model_specs import load_model
from pellucid.recipes._recipe import ModelKind, Recipe
from pellucid.recipes._settings import (
    fit_to_vocabulary,
    load_optimizer,
    make_loss,
    merge_settings,
)

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_TO_OPTIMIZER = ("proxy_model", "draft_model", "util_lm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ready:
    """A run whose parts have been found to go together; no model has computed anything yet.

    Attributes:
        optimizer: Made with everything but what follows.
        templates: The templates.
        trigger: Where to start; the optimizer's own choice when None.
        targets: What is known of the targets.
        texts: Texts whose vectors are to be added to them.
        teacher: The model whose logits are to be added to them.
    """

    optimizer: SearchOptimizer[Any]
    templates: list[Template]
    trigger: str | None
    targets: Targets
    texts: list[str]
    teacher: BaseModel | None

    def complete_targets(self) -> Targets:
        """Return the targets, with what models have to compute for them."""
        targets = self.targets
        if self.texts:
            targets = add_vectors(self.optimizer.model, targets, self.texts)
        if self.teacher is not None:
            targets = add_logits(self.teacher, targets, self.templates)
        return targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for; the fields are the arguments of `run`.

    Attributes:
        recipe: The recipe.
        model: The model under test, or a text that names it.
        templates: The templates.
        targets: What to bring about.
        seed: The seed; None where a checkpoint knows it.
        initial_trigger: Where to start.
        overrides: Settings of the optimizer.
        loss_overrides: Settings of the losses.
        helpers: The models beside the target, by argument.
    """

    recipe: Recipe
    model: BaseModel | str
    templates: Sequence[Template]
    targets: Targets | Sequence[str] | None
    seed: int | None
    initial_trigger: InitialTrigger | None
    overrides: Mapping[str, Any]
    loss_overrides: Mapping[str, Mapping[str, Any]]
    helpers: Mapping[str, BaseModel | str]

    def assemble(
        self,
        tracker: BaseTracker | None = None,
        budget: Budget | None = None,
        checkpoint_every: int | None = None,
    ) -> Ready:
        """Validate everything, load what is named, and make the optimizer.

        Cheap checks come before models are loaded.

        Args:
            tracker: Where to record.
            budget: Ends the run.
            checkpoint_every: Steps between checkpoints.

        Raises:
            PellucidError: If anything is not as it must be.
        """
        recipe = self.recipe
        self._check_roles()
        templates = self._check_templates()
        optimizer_type = load_optimizer(recipe)
        settings = merge_settings(recipe, optimizer_type, self.overrides)
        target = _resolve("model", self.model, recipe.model_kind, recipe.model_options)
        helpers = {role: _resolve(role, held) for role, held in self.helpers.items()}
        loss = make_loss(recipe, target, self.loss_overrides, helpers.get("judge"))
        targets, texts = read_targets(recipe, loss, self.targets)
        check_templates(templates, targets)
        check_compatibility(target, optimizer_type, loss).raise_if_incompatible()
        if texts:
            check_vectors(target, texts, len(templates))
        teacher = helpers.get("teacher_model")
        if teacher is not None:
            check_teacher(teacher, target)
        settings, trigger = self._fit(optimizer_type, settings, targets, target, helpers)
        further = {role: helpers[role] for role in _TO_OPTIMIZER if role in helpers}
        make: Any = optimizer_type
        optimizer = make(target, loss, tracker, self.seed, **settings, **further)
        _set_limits(optimizer, budget, checkpoint_every)
        return Ready(
            optimizer=optimizer,
            templates=templates,
            trigger=trigger,
            targets=targets,
            texts=texts,
            teacher=teacher,
        )

    def _fit(
        self,
        optimizer_type: type,
        settings: dict[str, Any],
        targets: Targets,
        target: BaseModel,
        helpers: Mapping[str, BaseModel],
    ) -> tuple[dict[str, Any], str | None]:
        """Return settings that suit the models, and where to start."""
        recipe = self.recipe
        proposers = [helpers.get("proxy_model"), helpers.get("util_lm"), target]
        tokenizer = find_tokenizer(settings, *proposers)
        asked = helpers.get("proxy_model", target)
        settings = fit_to_vocabulary(recipe, optimizer_type, settings, self.overrides, asked)
        if settings.get("tokenizer") is not None:
            settings["tokenizer"] = tokenizer
        if recipe.bans_target_tokens:
            settings = ban_targets(settings, targets, tokenizer)
        trigger = choose_trigger(recipe, self.initial_trigger, settings, self.seed, tokenizer)
        return settings, trigger

    def _check_roles(self) -> None:
        recipe = self.recipe
        for role in recipe.roles:
            if role.is_required and role.argument not in self.helpers:
                raise RequirementError(
                    f"the recipe {recipe.name!r} needs {role.argument}=, {role.what}."
                )
        for argument, held in self.helpers.items():
            if recipe.find_role(argument) is None:
                taken = ", ".join(f"{role.argument}=" for role in recipe.roles)
                raise RequirementError(
                    f"the recipe {recipe.name!r} has no role for {argument}={held!r}. Leave it "
                    f"out; beside model= it takes {taken or 'no model'}."
                )

    def _check_templates(self) -> list[Template]:
        checked = check_templates(self.templates)
        if len(checked) < self.recipe.min_templates:
            raise ArgumentError(
                f"the recipe {self.recipe.name!r} is for {self.recipe.min_templates} templates or "
                f"more, got {len(checked)}. Give more, or use a recipe for one."
            )
        return checked


def _resolve(
    argument: str,
    held: Any,
    kind: ModelKind = ModelKind.LANGUAGE_MODEL,
    options: Mapping[str, Any] = _NOTHING,
) -> BaseModel:
    if isinstance(held, str):
        return load_model(held, kind=kind, options=options)
    if not isinstance(held, BaseModel):
        raise RequirementError(
            f"{argument} must be a model, or a text that names one such as 'zoo:tiny-chat', got "
            f"{held!r}."
        )
    return held


def _set_limits(optimizer: Any, budget: Budget | None, checkpoint_every: int | None) -> None:
    if budget is not None:
        optimizer.set_budget(budget.limit, budget.metric, budget.scope)
    if checkpoint_every is None:
        return
    if checkpoint_every < 1:
        raise ArgumentError(f"checkpoint_every must be at least 1, got {checkpoint_every!r}.")
    optimizer.checkpoint_every = checkpoint_every
