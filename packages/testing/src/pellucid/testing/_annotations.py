"""Holds values against annotations, with axis names bound from one value to the next.

Every element of a container is looked at, and every field of a named tuple; beartype alone looks at
one element by chance. The functions here are not to be checked themselves: a checked function has
axis names of its own, and those bound by the values must outlive it.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_type_hints, no_type_check

from beartype import BeartypeConf
from beartype.door import is_bearable

from pellucid.core import ContractError

# An int where a float is annotated is right.
_CHECKS = BeartypeConf(is_pep484_tower=True)

_LISTS = frozenset({list, Sequence, Iterable})
_DICTS = frozenset({dict, Mapping})


def hints_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return a function's annotations by parameter, and that of its result as "return".

    Args:
        function: A function of a protocol.
        name: How to call it in an error.

    Raises:
        ContractError: If an annotation names what does not exist at run time.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ContractError(
            f"the annotations of {name} cannot be read: {error}. Import the name at run time, not "
            "under TYPE_CHECKING alone."
        ) from error
    original = inspect.unwrap(function)
    if inspect.isgeneratorfunction(original) and not inspect.isgeneratorfunction(function):
        # Made a context manager by a decorator: the annotation is that of the generator.
        hints.pop("return", None)
    return hints


@no_type_check
def satisfies(value: Any, hint: Any) -> bool:
    """Say whether a value has an annotated type, binding axis names of the current context."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(satisfies(value, option) for option in options)
    # What beartype is not asked, it does not draw an element for from the caller's generator.
    if isinstance(origin, type) and not isinstance(value, origin):
        return False
    if origin in _LISTS and isinstance(value, (list, tuple)):
        return all(satisfies(held, options[0]) for held in value)
    if origin in _DICTS:
        return all(
            satisfies(key, options[0]) and satisfies(held, options[1])
            for key, held in value.items()
        )
    if origin is tuple:
        wanted = options[:1] * len(value) if options[-1:] == (Ellipsis,) else options
        return len(value) == len(wanted) and all(map(satisfies, value, wanted))
    if _is_named_tuple(hint):
        hints = get_type_hints(hint, include_extras=True)
        return isinstance(value, hint) and all(
            satisfies(getattr(value, field), hints[field]) for field in hint._fields
        )
    return is_bearable(value, hint, conf=_CHECKS)


def describe_value(value: Any) -> str:
    """Return what an error says of a value: dtype and shape of a tensor, the type of the rest."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return (
            f"a tensor of {str(value.dtype).removeprefix('torch.')} with shape {tuple(value.shape)}"
        )
    if isinstance(value, (list, tuple)) and value:
        first = describe_value(value[0])
        return f"a {type(value).__name__} of {len(value)}, the first of them {first}"
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)
    return f"{'an' if type(value).__name__[0] in 'AEIOUaeiou' else 'a'} {type(value).__name__}"


def describe_hint(hint: Any) -> str:
    """Return an annotation the way it is written."""
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return text.replace("jaxtyping.", "").replace("torch.", "").replace("typing.", "")


def _is_named_tuple(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")
