"""The one switch for runtime type checks, and the check of what crosses a package boundary.

`PELLUCID_TYPECHECK` is read once, when `pellucid.core` is first imported: `1` checks every
annotated function of every Pellucid package imported from then on, `0` checks nothing, and unset
checks what crosses a boundary between packages.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jaxtyping
from beartype import BeartypeConf, beartype

from pellucid.core._errors import ContractError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_SWITCH = os.environ.get("PELLUCID_TYPECHECK", "")

# An int where a float is annotated is what everybody writes; beartype refuses it by default. Nor
# shall it draw the element of a list that it looks at: the caller's generator is not ours to use.
CHECKS = BeartypeConf(is_pep484_tower=True, is_random=False)

_CHECKER = beartype(conf=CHECKS)
_CHECKS_OF_CLOSURES: dict[tuple[object, ...], Any] = {}


def checker(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Wrap a function so that every call is checked against its annotations.

    jaxtyping passes functions that do nothing but have the annotations in question. A nested
    function is defined at every call of the one around it, and to write its checks takes longer
    than most calls: they are written once, unless a class of that call is among the annotations.
    """
    if "<locals>" not in function.__qualname__:
        return _CHECKER(function)
    # jaxtyping makes a new class of each annotation, but gives equal ones the same name.
    names = [repr(annotation) for annotation in function.__annotations__.values()]
    if any("<locals>" in name for name in names):
        return _CHECKER(function)
    key = (function.__module__, function.__qualname__, function.__code__, *names)
    if key not in _CHECKS_OF_CLOSURES:
        _CHECKS_OF_CLOSURES[key] = _CHECKER(function)
    return _CHECKS_OF_CLOSURES[key]


def install_hook() -> None:
    """Check every annotated function of the namespace, when `PELLUCID_TYPECHECK=1` asks for it."""
    if _SWITCH == "1":
        # The hook spells the checker out as an attribute of its package, which the import system
        # sets only when the package has been imported.
        setattr(sys.modules["pellucid"], "core", sys.modules["pellucid.core"])  # noqa: B010
        jaxtyping.install_import_hook("pellucid", "pellucid.core._typecheck.checker")
        if _runs_a_module():
            sys.dont_write_bytecode = True


def _runs_a_module() -> bool:
    """Say whether Python runs a module of ours by name, as `python -m` does, and so does a worker.

    The hook marks the bytecode of what is imported, but not that of what is run: left in the cache,
    it would fail in the next process that checks nothing.
    """
    asked = itertools.pairwise(sys.orig_argv)
    is_ours = any(flag == "-m" and name.startswith("pellucid") for flag, name in asked)
    return is_ours or "--multiprocessing-fork" in sys.orig_argv


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
