"""One function says whether a model, an optimizer and a loss go together.

It answers for the constructor's error, for the matrix in the docs and for the tests. Each part may
be an object or a class; a class stands for the objects it makes, and what these must be made with
is a condition.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pellucid.core._access import (
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InvokeTokenAccessMixin,
    TextAccessMixin,
)
from pellucid.core._conditions import Condition, Role
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

_MADE_INPUTS: Mapping[Flow, frozenset[str]] = {
    Flow.TEXTS: frozenset(),
    Flow.TOKENS: frozenset({"input_ids", "input_attention_mask", "input_slices"}),
    Flow.EMBEDS: frozenset({"input_embeds", "input_attention_mask", "input_slices"}),
}
"""What models may add to the inputs of a flow."""


_FIELD_ADVICE: Mapping[str, str] = {
    "activations": "make it of a bridge, LMHFModel(pellucid.bridge.TransformerBridge(...))",
}
"""What provides fields that models do not have by themselves."""


class Verdict(StrEnum):
    """Whether three parts go together."""

    YES = "yes"
    CONDITIONAL = "conditional"
    NO = "no"


class Lack(StrEnum):
    """What kind of thing is missing."""

    ACCESS = "access"
    GRADIENT = "gradient"
    FIELD = "field"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompatibilityReport:
    """What `check_compatibility` found.

    Attributes:
        reasons: What is missing, and what would provide it; empty when all fits.
        lacks: The kind of each reason.
        conditions: Of classes that go together, the arguments that their objects must be made
            with.
        notes: What cannot be known before the first forward pass.
        error: The kind of error that the reasons amount to.
    """

    reasons: tuple[str, ...] = ()
    lacks: tuple[Lack, ...] = ()
    conditions: tuple[Condition, ...] = ()
    notes: tuple[str, ...] = ()
    error: type[RequirementError] = RequirementError

    @property
    def compatible(self) -> bool:
        """Whether the three go together, the conditions met."""
        return not self.reasons

    @property
    def verdict(self) -> Verdict:
        """Whether the three go together as they are, under conditions, or not at all."""
        if self.reasons:
            return Verdict.NO
        return Verdict.CONDITIONAL if self.conditions else Verdict.YES

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

    A class stands for the objects that it makes. What not all of them have, an optional field of a
    model or a proxy of an optimizer, is a condition; of an object it is there or missing.

    Args:
        model: A model, or a model class.
        optimizer: An optimizer, or an optimizer class.
        loss: A loss, a loss class, or None when the optimizer uses none.

    Returns:
        The report; `report.compatible` and `report.reasons` are what most callers want.
    """
    requirements: tuple[type, ...] = optimizer.model_requirements
    loss = _make_default(loss)
    findings = _Findings()
    for text in _missing_access(model, optimizer, requirements):
        findings.reject(Lack.ACCESS, text)
    if loss is not None:
        if needs_gradient(requirements) and not _is_differentiable(loss):
            findings.reject(
                Lack.GRADIENT,
                f"{_name(optimizer)} takes gradients of the loss, {_name(loss)} has none. Use a "
                "differentiable loss, or an optimizer without gradients such as "
                "RandomSearchOptimizer.",
            )
        for flow in flows_of(requirements):
            _check_fields(model, flow, loss, findings)
    if isinstance(optimizer, type):
        for role in getattr(optimizer, "roles", ()):
            _cast(role, model, optimizer, loss, findings)
    return findings.report()


@dataclasses.dataclass
class _Findings:
    reasons: list[tuple[Lack, str]] = dataclasses.field(default_factory=list)
    conditions: list[Condition] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def reject(self, lack: Lack, text: str) -> None:
        self.reasons.append((lack, text))

    def report(self) -> CompatibilityReport:
        lacks = tuple(lack for lack, _ in self.reasons)
        is_flat = lacks == (Lack.GRADIENT,)
        return CompatibilityReport(
            reasons=tuple(text for _, text in self.reasons),
            lacks=lacks,
            conditions=() if lacks else tuple(dict.fromkeys(self.conditions)),
            notes=tuple(self.notes),
            error=NotDifferentiableError if is_flat else RequirementError,
        )


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


def _check_fields(model: Any, flow: Flow, loss: Any, findings: _Findings) -> None:
    provided = None if model.provides is None else model.provides.get(flow)
    if provided is None:
        findings.notes.append(
            f"{_name(model)} declares nothing for the flow {flow.value!r}; what {_name(loss)} "
            "reads is checked when it is first computed."
        )
        return
    asked = _options(loss)
    for field in _fields_of_model(flow, loss, findings.notes):
        if field not in provided:
            findings.reject(
                Lack.FIELD,
                f"{_name(loss)} reads {field!r}, which {_name(model)} does not provide in the flow "
                f"{flow.value!r} ({_advise_field(model, field, flow, provided)}).",
            )
        elif not asked.issuperset(provided[field]):
            lacking = sorted(set(provided[field]) - asked)
            findings.reject(
                Lack.FIELD,
                f"{_name(loss)} reads {field!r}, which {_name(model)} provides only under "
                f"{', '.join(lacking)}. Set {lacking[0]} = True on the loss.",
            )
        elif isinstance(model, type) and field in _optional_fields(model):
            option = _optional_fields(model)[field]
            reads = f"{_name(loss)} reads {field!r}"
            findings.conditions.append(
                Condition(owner=_name(model), argument=option, advice="True", because=reads)
            )


def _fields_of_model(flow: Flow, loss: Any, notes: list[str]) -> list[str]:
    """Return what a loss reads that neither the inputs of a flow nor targets hold."""
    known = _GIVEN_INPUTS[flow] | WHOLE_CONTAINERS | set(field_names(MessageTargets))
    return sorted(_read_fields(loss, notes) - known)


def _advise_field(model: Any, field: str, flow: Flow, provided: Mapping[str, Any]) -> str:
    made_with = _optional_fields(model).get(field)
    if made_with is not None and field in (_type(model).provides or {}).get(flow, {}):
        return f"make it with {made_with}=True"
    if field in _FIELD_ADVICE:
        return _FIELD_ADVICE[field]
    return f"it provides {', '.join(sorted(provided)) or 'nothing'}"


def _optional_fields(model: Any) -> Mapping[str, str]:
    return getattr(model, "optional_fields", {})


def _cast(role: Role, model: Any, optimizer: Any, loss: Any, findings: _Findings) -> None:
    """Find what must be given for a role to be played."""
    owner = _name(optimizer)
    target_plays = not role.is_required and issubclass(_type(model), role.access)
    if not target_plays:
        needed = " and ".join(required.__name__ for required in role.access)
        why = "" if role.is_required else f"{_name(model)} offers no {needed}"
        findings.conditions.append(_require(owner, role.argument, role.part, role, why))
    if loss is None or role.loss_argument is None:
        return
    own = _examine_loss(role, model if target_plays else None, loss)
    if own.reasons:
        lack = own.reasons[0][1].rstrip(".")
        advice = f"a loss of its own for {role.argument}"
        own.conditions = [_require(owner, role.loss_argument, advice, role, lack)]
    findings.conditions.extend(own.conditions)


def _require(owner: str, argument: str, advice: str, role: Role, because: str) -> Condition:
    if role.otherwise:
        advice = f"{advice}, or {role.otherwise} instead"
    return Condition(owner=owner, argument=argument, advice=advice, because=because)


def _examine_loss(role: Role, model: Any, loss: Any) -> _Findings:
    """Find why a loss cannot be computed in a role, by the target or, without one, by anybody."""
    findings = _Findings()
    if needs_gradient(role.access) and not _is_differentiable(loss):
        findings.reject(Lack.GRADIENT, f"{_name(loss)} has no gradient")
        return findings
    for flow in flows_of(role.access):
        if model is not None:
            _check_fields(model, flow, loss, findings)
            continue
        anywhere = {*field_names(ModelOutput), *_MADE_INPUTS[flow]}
        for field in _fields_of_model(flow, loss, []):
            if field not in anywhere:
                findings.reject(Lack.FIELD, f"there is no {field!r} in the flow {flow.value!r}")
    return findings


def _type(part: Any) -> type:
    return part if isinstance(part, type) else type(part)


def _name(part: Any) -> str:
    return _type(part).__name__


def _make_default(loss: Any) -> Any:
    """Return the object that a loss class makes by default, where only an object can say more."""
    if not isinstance(loss, type) or getattr(loss, "reads", None) is BaseLoss.reads:
        return loss
    parameters = inspect.signature(loss).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    is_free = all(p.default is not p.empty or p.kind in variadic for p in parameters)
    return loss() if is_free else loss


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
