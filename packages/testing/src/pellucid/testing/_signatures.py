"""Says whether one signature can be called as another one promises."""

from collections.abc import Iterable, Mapping
from inspect import Parameter, Signature
from typing import Any


def find_misfit(own: Signature, promised: Signature) -> str | None:
    """Return what keeps calls that a protocol allows from reaching an implementation, if anything.

    An implementation may leave out a `**kwargs` of the protocol, may take more if it has defaults,
    and may take optional arguments by keyword only. Where the protocol takes `**kwargs`, what the
    implementation requires beyond the protocol is between it and its callers.

    Args:
        own: The implementation's signature, without `self`.
        promised: The protocol's, without `self`.
    """
    ours, theirs = own.parameters, promised.parameters
    takes_names = _has_kind(theirs.values(), Parameter.VAR_KEYWORD)
    if takes_names and _has_kind(theirs.values(), Parameter.VAR_POSITIONAL):
        return None
    named = [p for p in theirs.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for index, parameter in enumerate(named):
        misfit = _find_parameter_misfit(parameter, index, ours)
        if misfit is not None:
            return misfit
    beyond = [name for name, p in ours.items() if name not in theirs and _is_required(p)]
    if beyond and not takes_names:
        return f"requires {beyond[0]!r}, which callers know nothing of"
    return None


def _find_parameter_misfit(
    promised: Parameter, index: int, ours: Mapping[str, Parameter]
) -> str | None:
    name = promised.name
    if promised.kind is not promised.POSITIONAL_ONLY and not _takes_name(name, ours):
        return f"does not take {name!r}"
    is_positional = promised.kind is not promised.KEYWORD_ONLY
    if _is_required(promised) and is_positional and not _takes_position(promised, index, ours):
        return f"does not take {name!r} as argument {index + 1}"
    if not _is_required(promised) and name in ours and _is_required(ours[name]):
        return f"requires {name!r}, which callers may leave out"
    return None


def _takes_name(name: str, ours: Mapping[str, Parameter]) -> bool:
    if name in ours:
        return ours[name].kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return _has_kind(ours.values(), Parameter.VAR_KEYWORD)


def _takes_position(promised: Parameter, index: int, ours: Mapping[str, Parameter]) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, parameter in ours.items() if parameter.kind in kinds]
    if index >= len(names):
        return _has_kind(ours.values(), Parameter.VAR_POSITIONAL)
    return promised.kind is Parameter.POSITIONAL_ONLY or names[index] == promised.name


def _has_kind(parameters: Iterable[Parameter], kind: Any) -> bool:
    return any(parameter.kind is kind for parameter in parameters)


def _is_required(parameter: Parameter) -> bool:
    is_variable = parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return parameter.default is Parameter.empty and not is_variable
