"""What a protocol, or an abstract class, declares of an object."""

import dataclasses
import functools
import inspect
import typing
from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Protocol, get_type_hints

from pellucid.core import ContractError
from pellucid.testing._annotations import hints_of

_ROOTS: tuple[Any, ...] = (object, ABC, Protocol, Generic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """One public member of a protocol.

    Attributes:
        protocol: The protocol's name.
        name: The member's name.
        function: The function that declares a method; None for what is read, not called.
        hints: The annotations by parameter; "return" is that of the result, or of what is read.
    """

    protocol: str
    name: str
    function: Any = None
    hints: Mapping[str, Any]

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """A method's signature, `self` included."""
        return inspect.signature(self.function)


def declarations_of(protocols: tuple[type, ...]) -> dict[str, list[Declaration]]:
    """Return what protocols declare, by member; what they inherited together stands once."""
    members: dict[str, list[Declaration]] = {}
    for protocol in protocols:
        for declaration in _declarations(protocol):
            known = members.setdefault(declaration.name, [])
            if declaration.function is None or all(
                other.function is not declaration.function for other in known
            ):
                known.append(declaration)
    return members


@functools.cache
def _declarations(protocol: type) -> tuple[Declaration, ...]:
    found = [_declare(protocol, name) for name in sorted(set(_names(protocol)))]
    return tuple(declaration for declaration in found if declaration is not None)


def _names(protocol: type) -> Iterator[str]:
    for cls in protocol.__mro__:
        if cls not in _ROOTS:
            for name in (*vars(cls), *inspect.get_annotations(cls)):
                if name == "__call__" or not name.startswith("_"):
                    yield name


def _declare(protocol: type, name: str) -> Declaration | None:
    label = f"{protocol.__name__}.{name}"
    held = inspect.getattr_static(protocol, name, None)
    if isinstance(held, (property, functools.cached_property)):
        getter: Any = held.fget if isinstance(held, property) else held.func
        hints = {"return": hints_of(getter, label).get("return", Any)}
        return Declaration(protocol=protocol.__name__, name=name, hints=hints)
    if inspect.isfunction(held):
        hints = hints_of(held, label)
        return Declaration(protocol=protocol.__name__, name=name, function=held, hints=hints)
    hint = _annotations(protocol).get(name, ClassVar)
    if hint is ClassVar or typing.get_origin(hint) is ClassVar:
        return None  # a constant, a classmethod: says nothing of an object
    return Declaration(protocol=protocol.__name__, name=name, hints={"return": hint})


def _annotations(protocol: type) -> dict[str, Any]:
    try:
        return get_type_hints(protocol, include_extras=True)
    except NameError as error:
        raise ContractError(
            f"the annotations of {protocol.__name__} cannot be read: {error}. Import the name at "
            "run time, not under TYPE_CHECKING alone."
        ) from error
