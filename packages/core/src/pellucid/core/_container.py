"""The decorator that turns a class of annotated fields into a checked, frozen value type."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform, get_type_hints, no_type_check

import jaxtyping
from beartype.door import is_bearable

from pellucid.core._errors import ContainerError
from pellucid.core._typecheck import CHECKS, are_boundaries_checked

_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def container(cls: type[_T]) -> type[_T]:
    """Make a frozen, keyword-only dataclass whose fields are checked when it is constructed.

    A field must satisfy its annotation in type, dtype and rank; an axis name that occurs in several
    fields must have one length. A field's own `__post_init__` runs after these checks.

    Args:
        cls: A class with annotated fields, all of which have defaults.

    Returns:
        The dataclass. Its constructor raises `ContainerError` (a ValueError) for an unknown field
        and for a value that breaks an annotation.
    """
    validate = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        if are_boundaries_checked():
            _check_fields(self)
        if validate is not None:
            validate(self)

    cls.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]
    made = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    _refuse_unknown_fields(made)
    return made


def set_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a container that are not None, in the order of declaration."""
    pairs = ((name, getattr(value, name)) for name in field_names(type(value)))
    return {name: held for name, held in pairs if held is not None}


def _check_fields(value: Any) -> None:
    hints = _hints_of(type(value))
    with jaxtyping.jaxtyped("context"):
        for name, held in set_fields(value).items():
            if not _satisfies(held, hints[name]):
                raise ContainerError(_describe_misfit(type(value).__name__, name, held, hints))


def field_names(cls: Any) -> tuple[str, ...]:
    """Return the names of a container class's fields, in the order of declaration."""
    return tuple(field.name for field in dataclasses.fields(cls))


# Under the import hook a checked function has axis names of its own; those of a container's fields
# must outlive this one.
@no_type_check
def _satisfies(value: Any, hint: Any) -> bool:
    # beartype looks at one random element of a list or a dict; a container looks at every one.
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_satisfies(value, option) for option in options)
    if origin is list:
        return isinstance(value, list) and all(_satisfies(held, options[0]) for held in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _satisfies(key, options[0]) and _satisfies(held, options[1])
            for key, held in value.items()
        )
    return is_bearable(value, hint, conf=CHECKS)


def _describe_misfit(owner: str, name: str, held: Any, hints: Mapping[str, Any]) -> str:
    got = f"{type(held).__name__}"
    if hasattr(held, "shape") and hasattr(held, "dtype"):
        got = f"a tensor of {held.dtype} with shape {tuple(held.shape)}"
    return (
        f"{owner}.{name} expects {_name_hint(hints[name])} "
        f"(axis names agree between fields), got {got}."
    )


def _name_hint(hint: Any) -> str:
    return str(hint).replace("jaxtyping.", "").replace(" | None", "").replace("torch.", "")


_HINTS: dict[type, dict[str, Any]] = {}


def _hints_of(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, include_extras=True)
    return _HINTS[cls]


def _refuse_unknown_fields(cls: type) -> None:
    names = field_names(cls)
    build = cls.__init__

    @functools.wraps(build)
    def __init__(self: Any, **fields: Any) -> None:
        unknown = [name for name in fields if name not in names]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            advice = f"Did you mean {near[0]!r}?" if near else f"Fields: {', '.join(names)}."
            raise ContainerError(f"{cls.__name__} has no field {unknown[0]!r}. {advice}")
        build(self, **fields)

    cls.__init__ = __init__  # pyright: ignore[reportAttributeAccessIssue]
