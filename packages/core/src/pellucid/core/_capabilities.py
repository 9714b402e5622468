"""One function says whether a model, an optimizer and a loss go together.

It answers for the constructor's error, for the matrix in the docs and for the tests. Each part may
be an object or a class; a class is judged by what it declares.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.core._access import (
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InvokeTokenAccessMixin,
    TextAccessMixin,
)
from pellucid.core._container import field_names
from pellucid.core._errors import NotDifferentiableError, RequirementError
from pellucid.core._flow import Flow
from pellucid.core._loss import (
    REQUIRE_OPTIONS,
    WHOLE_CONTAINERS,
    BaseLoss,
    reads_of_signature,
)
from pellucid.core._model_io import ModelInput, ModelOutput
from pellucid.core._registry import load, names
from pellucid.core._targets import MessageTargets

_GIVEN_INPUTS: Mapping[Flow, frozenset[str]] = {
    Flow.TEXTS: frozenset({"input_texts", "input_trigger_strs"}),
    Flow.TOKENS: frozenset({"input_trigger_ids", "input_trigger_strs"}),
    Flow.EMBEDS: frozenset(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompatibilityReport:
    """What `check_compatibility` found.

    Attributes:
        reasons: What is missing, and what would provide it; empty when all fits.
        notes: What cannot be known before the first forward pass.
        error: The kind of error that the reasons amount to.
    """

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: type[RequirementError] = RequirementError

    @property
    def compatible(self) -> bool:
        """Whether the three go together."""
        return not self.reasons

    def raise_if_incompatible(self) -> None:
        """Raise the reasons, if there are any.

        Raises:
            RequirementError: If something is missing; `NotDifferentiableError` when that is the
                loss's gradient.
        """
        if self.reasons:
            raise self.error(" ".join(self.reasons))


def check_compatibility(model: Any, optimizer: Any, loss: Any = None) -> CompatibilityReport:
    """Say whether a model, an optimizer and a loss go together.

    Args:
        model: A model, or a model class.
        optimizer: An optimizer, or an optimizer class.
        loss: A loss, a loss class, or None when the optimizer uses none.

    Returns:
        The report; `report.compatible` and `report.reasons` are what most callers want.
    """
    requirements: tuple[type, ...] = optimizer.model_requirements
    reasons = list(_missing_access(model, optimizer, requirements))
    notes: list[str] = []
    error: type[RequirementError] = RequirementError
    if loss is not None:
        if needs_gradient(requirements) and not _is_differentiable(loss):
            reasons.append(
                f"{_name(optimizer)} takes gradients of the loss, {_name(loss)} has none. Use a "
                "differentiable loss, or an optimizer without gradients such as "
                "RandomSearchOptimizer."
            )
            error = NotDifferentiableError if len(reasons) == 1 else error
        for flow in flows_of(requirements):
            reasons.extend(_missing_fields(model, flow, loss, notes))
    return CompatibilityReport(reasons=tuple(reasons), notes=tuple(notes), error=error)


def needs_gradient(requirements: tuple[type, ...]) -> bool:
    """Say whether an optimizer with these requirements differentiates the loss."""
    gradients = (GradientTokenAccessMixin, GradientEmbedAccessMixin)
    return any(issubclass(required, gradients) for required in requirements)


def flows_of(requirements: tuple[type, ...]) -> tuple[Flow, ...]:
    """Return the flows in which an optimizer with these requirements has losses computed."""
    flows = {_flow_of(required) for required in requirements}
    return tuple(flow for flow in Flow if flow in flows)


def _flow_of(required: type) -> Flow | None:
    if issubclass(required, GradientEmbedAccessMixin):
        return Flow.EMBEDS
    if issubclass(required, InvokeTokenAccessMixin):
        return Flow.TOKENS
    return Flow.TEXTS if issubclass(required, TextAccessMixin) else None


def _missing_access(model: Any, optimizer: Any, requirements: tuple[type, ...]) -> Iterator[str]:
    for required in requirements:
        if not issubclass(_type(model), required):
            yield (
                f"{_name(optimizer)} requires {required.__name__}, which {_name(model)} does not "
                f"offer. {_advise_backend(required)}"
            )


def _advise_backend(required: type) -> str:
    able = [name for name, cls in _registered_models() if issubclass(cls, required)]
    if able:
        return f"Backends that do: {', '.join(able)}."
    return "A backend that does: pellucid.hf.LMHFModel (pip install pellucid-hf)."


def _registered_models() -> Iterator[tuple[str, type]]:
    for name in names("pellucid.models"):
        try:
            cls = load("pellucid.models", name)
        except Exception:
            # A backend that cannot be imported here cannot be recommended.
            continue
        if isinstance(cls, type):
            yield f"{cls.__module__.partition('._')[0]}.{cls.__name__}", cls


def _missing_fields(model: Any, flow: Flow, loss: Any, notes: list[str]) -> Iterator[str]:
    provided = None if model.provides is None else model.provides.get(flow)
    if provided is None:
        notes.append(
            f"{_name(model)} declares nothing for the flow {flow.value!r}; what {_name(loss)} "
            "reads is checked when it is first computed."
        )
        return
    asked = _options(loss)
    known = _GIVEN_INPUTS[flow] | WHOLE_CONTAINERS | set(field_names(MessageTargets))
    for field in sorted(_read_fields(loss, notes) - known):
        if field not in provided:
            yield (
                f"{_name(loss)} reads {field!r}, which {_name(model)} does not provide in the flow "
                f"{flow.value!r} (it provides {', '.join(sorted(provided)) or 'nothing'})."
            )
        elif not asked.issuperset(provided[field]):
            lacking = sorted(set(provided[field]) - asked)
            yield (
                f"{_name(loss)} reads {field!r}, which {_name(model)} provides only under "
                f"{', '.join(lacking)}. Set {lacking[0]} = True on the loss."
            )


def _type(part: Any) -> type:
    return part if isinstance(part, type) else type(part)


def _name(part: Any) -> str:
    return _type(part).__name__


def _is_differentiable(loss: Any) -> bool:
    flag = loss.is_differentiable
    return flag if isinstance(flag, bool) else True


def _read_fields(loss: Any, notes: list[str]) -> set[str]:
    if isinstance(loss, BaseLoss):
        return set(loss.reads().required)
    required = set(reads_of_signature(loss).required)
    if loss.reads is BaseLoss.reads:
        return required
    notes.append(
        f"{_name(loss)} says all that it reads only once it is made; pass an object to have it "
        "checked."
    )
    return required & {*field_names(ModelOutput), *field_names(ModelInput)}


def _options(loss: Any) -> set[str]:
    return {name for name in REQUIRE_OPTIONS if getattr(loss, name) is True}
