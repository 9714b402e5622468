"""Settings of a recipe's optimizer and losses, and what a caller puts in their place."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args

from pellucid.core import (
    BaseLoss,
    BaseModel,
    CombinedLoss,
    RequirementError,
    UnknownNameError,
    load,
)
from pellucid.optimizers import SearchOptimizer, TokenConstraints
from pellucid.recipes._recipe import LossPart, MiddleLayers, Recipe, RoleName

_GIVEN_BY_RUN = frozenset({"self", "model", "loss", "tracker", "seed", *get_args(RoleName)})
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_OFFERED = {"gaslite": "n_candidates"}
"""What an optimizer calls the tokens it offers for a position, if not `sample_topk`."""


def load_optimizer(recipe: Recipe) -> type[SearchOptimizer[Any]]:
    """Return the optimizer class of a recipe.

    Raises:
        UnknownNameError: If no optimizer is registered under the recipe's name for it.
        RequirementError: (a TypeError) If it cannot be run step by step.
    """
    found = load("pellucid.optimizers", recipe.optimizer)
    if not isinstance(found, type) or not issubclass(found, SearchOptimizer):
        raise RequirementError(
            f"the optimizer {recipe.optimizer!r} of {recipe.name!r} is {found!r}, expected a "
            "subclass of pellucid.optimizers.SearchOptimizer."
        )
    return found


def merge_settings(
    recipe: Recipe, optimizer_type: type, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the optimizer is made with.

    Args:
        recipe: The recipe.
        optimizer_type: Its optimizer.
        overrides: Settings that the caller chose; plain values as YAML has them will do.

    Raises:
        UnknownNameError: If the optimizer has no setting of a name.
    """
    known = _parameters(optimizer_type) - _GIVEN_BY_RUN
    for name in overrides:
        if name not in known:
            raise UnknownNameError(f"setting of {optimizer_type.__name__}", name, known)
    return {**recipe.settings, **{name: _revive(name, held) for name, held in overrides.items()}}


def fit_to_vocabulary(
    recipe: Recipe,
    optimizer_type: type,
    settings: dict[str, Any],
    overrides: Mapping[str, Any],
    model: BaseModel,
) -> dict[str, Any]:
    """Return settings that offer no more tokens for a position than a model has.

    What nobody asked for may give way to a small vocabulary; what somebody did may not.

    Args:
        recipe: The recipe.
        optimizer_type: Its optimizer.
        settings: What that is made with.
        overrides: What of this the caller chose.
        model: The model that offers.
    """
    name = _OFFERED.get(recipe.optimizer, "sample_topk")
    parameter = inspect.signature(optimizer_type).parameters.get(name)
    vocab_size = getattr(model, "vocab_size", None)
    if parameter is None or name in overrides or not isinstance(vocab_size, int):
        return settings
    return {**settings, name: min(settings.get(name, parameter.default), vocab_size)}


def make_loss(
    recipe: Recipe,
    model: BaseModel,
    overrides: Mapping[str, Mapping[str, Any]],
    judge: BaseModel | None,
) -> BaseLoss:
    """Return the loss of a recipe.

    Args:
        recipe: The recipe.
        model: The target, which knows how many layers it has.
        overrides: By registered name of a loss, what it is made with instead; `weight` is its
            factor in the sum.
        judge: The model that a loss asks, if one does.

    Raises:
        UnknownNameError: If the recipe has no loss of a name, or that no setting of a name.
    """
    for name in overrides:
        if name not in (part.name for part in recipe.losses):
            known = [part.name for part in recipe.losses]
            raise UnknownNameError(f"loss of {recipe.name}", name, known)
    changed = [_change(part, overrides.get(part.name, _NOTHING)) for part in recipe.losses]
    losses = [_make_part(part, model, judge) for part in changed]
    if len(losses) == 1 and changed[0].weight == 1.0:
        return losses[0]
    return CombinedLoss(losses, [part.weight for part in changed])


def _change(part: LossPart, overrides: Mapping[str, Any]) -> LossPart:
    known = _parameters(load("pellucid.losses", part.name)) - {"judge"}
    for name in overrides:
        if name not in {*known, "weight"}:
            raise UnknownNameError(f"setting of {part.name}", name, {*known, "weight"})
    chosen = {name: held for name, held in overrides.items() if name != "weight"}
    weight = float(overrides.get("weight", part.weight))
    return dataclasses.replace(part, settings={**part.settings, **chosen}, weight=weight)


def _make_part(part: LossPart, model: BaseModel, judge: BaseModel | None) -> BaseLoss:
    loss_type: Callable[..., BaseLoss] = load("pellucid.losses", part.name)
    settings = {
        name: held.pick(model) if isinstance(held, MiddleLayers) else held
        for name, held in part.settings.items()
    }
    if judge is not None and "judge" in _parameters(loss_type):
        settings["judge"] = judge
    return loss_type(**settings)


def _parameters(part: Any) -> frozenset[str]:
    return frozenset(inspect.signature(part).parameters)


def _revive(name: str, held: Any) -> Any:
    """Return what a plain value of YAML stands for."""
    if name == "token_constraints" and isinstance(held, Mapping):
        known = {field.name for field in dataclasses.fields(TokenConstraints)}
        for key in held:
            if key not in known:
                raise UnknownNameError("setting of TokenConstraints", str(key), known)
        return TokenConstraints(**held)
    return tuple(held) if isinstance(held, list) else held
