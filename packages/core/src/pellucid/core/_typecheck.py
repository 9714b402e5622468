"""The one switch for runtime type checks, and the check of what crosses a package boundary.

`PELLUCID_TYPECHECK` is read once, when `pellucid.core` is first imported: `1` checks every
annotated function of every Pellucid package imported from then on, `0` checks nothing, and unset
checks what crosses a boundary between packages.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import jaxtyping
from beartype import BeartypeConf, beartype

from pellucid.core import _import_hook
from pellucid.core._errors import ContractError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_SWITCH = os.environ.get("PELLUCID_TYPECHECK", "")

# An int where a float is annotated is what everybody writes; beartype refuses it by default. Nor
# shall it draw the element of a list that it looks at: the caller's generator is not ours to use.
CHECKS = BeartypeConf(
    is_pep484_tower=True, is_random=False, violation_type=jaxtyping.TypeCheckError
)

_CHECKER = beartype(conf=CHECKS)
_CHECKS_OF_CLOSURES: dict[tuple[object, ...], Any] = {}


def checked(target: Any) -> Any:
    """Check every call of a function, or of a dataclass, against its annotations.

    Only where axes are named must those of all arguments and of the result be compared, which
    takes jaxtyping eight times as long as it takes beartype to look at each by itself.
    """
    if isinstance(target, type):
        init = vars(target).get("__init__")
        is_generated = inspect.isfunction(init) and not hasattr(init, "__wrapped__")
        if dataclasses.is_dataclass(target) and is_generated:
            setattr(target, "__init__", checked(init))  # noqa: B010
        return target
    if inspect.iscoroutinefunction(target):
        return _CHECKER(target)  # jaxtyping would look at the coroutine, not at what it returns
    # For nested functions see `checker`.
    if "<locals>" in target.__qualname__ or any(map(_may_name_axes, _annotations(target))):
        return jaxtyping.jaxtyped(target, typechecker=checker)
    check = _CHECKER(target)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        # jaxtyping's own switch, so that a test can see what users see.
        function = target if jaxtyping.config.jaxtyping_disable else check
        return function(*args, **kwargs)

    return call


def checker(stub: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Check the calls of a stub of jaxtyping's: it does nothing, and has a function's annotations.

    A nested function is defined at every call of the one around it, and to write its checks takes
    longer than most calls: they are written once, unless a class of that call is among the
    annotations.
    """
    if "<locals>" not in stub.__qualname__:
        return _CHECKER(stub)
    # jaxtyping makes a new class of each annotation, but gives equal ones the same name.
    names = [repr(annotation) for annotation in _annotations(stub)]
    if any("<locals>" in name for name in names):
        return _CHECKER(stub)
    key = (stub.__module__, stub.__qualname__, stub.__code__, *names)
    if key not in _CHECKS_OF_CLOSURES:
        _CHECKS_OF_CLOSURES[key] = _CHECKER(stub)
    return _CHECKS_OF_CLOSURES[key]


def _annotations(function: Callable[..., Any]) -> Collection[Any]:
    return function.__annotations__.values()


def _may_name_axes(annotation: Any) -> bool:
    # Text is evaluated by jaxtyping, where that is possible.
    return isinstance(annotation, str) or "jaxtyping." in repr(annotation)


def install_hook() -> None:
    """Check every annotated function of the namespace, when `PELLUCID_TYPECHECK=1` asks for it."""
    if _SWITCH == "1":
        _import_hook.install()


def are_boundaries_checked() -> bool:
    """Say whether containers, constructors and boundary functions check what they are given."""
    return _SWITCH != "0"


def boundary(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Check a public function's arguments and result against its annotations, axis names included.

    Meant for the few functions that one package calls on another, each of which does milliseconds
    of work: a check costs some 50 microseconds.

    Args:
        function: A function or method with jaxtyping annotations.

    Returns:
        The checked function; `function` itself when checks are turned off.

    Raises:
        ContractError: On a call whose arguments or result break the annotations. The message
            carries the shapes and the axis names bound so far.
    """
    if not are_boundaries_checked():
        return function
    checked: Callable[..., Any] = jaxtyping.jaxtyped(function, typechecker=checker)

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return checked(*args, **kwargs)
        except jaxtyping.TypeCheckError as error:
            raise ContractError(f"{function.__qualname__}: {error}") from error

    return call
