"""Holds an implementation to the signatures of protocols, whatever its own annotations say."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, no_type_check

import jaxtyping

from pellucid.core import ContractError
from pellucid.testing._annotations import describe_hint, describe_value, satisfies
from pellucid.testing._declarations import Declaration, declarations_of
from pellucid.testing._signatures import find_misfit

_T = TypeVar("_T")
_Members = Mapping[str, list[Declaration]]

_FORWARDED = (
    "__contains__",
    "__enter__",
    "__eq__",
    "__exit__",
    "__getitem__",
    "__hash__",
    "__iter__",
    "__len__",
    "__repr__",
)


def checked(impl: _T, *protocols: type) -> _T:
    """Wrap an object so that each use of a protocol's member is checked against the protocol.

    A structural protocol binds nobody by itself, and annotations in a base class bind no override.
    Here each call of a public method, or of the object itself, is bound to the protocol's
    signature; arguments and result must have the types, dtypes and ranks annotated there, and an
    axis name must have one length throughout a call. Public properties and attributes are checked
    when read. What the object calls on itself is left alone.

    The result is an instance of the object's class and shares its state, so it can go wherever the
    object could. Of an object whose class cannot be derived from, only `isinstance` holds.

    Args:
        impl: The object; it need not be annotated.
        *protocols: `typing.Protocol` classes, abstract classes, mixins.

    Returns:
        The checked object.

    Raises:
        ContractError: (a TypeError and ValueError) At once if a member is missing or cannot be
            called as the protocol says; later at the first use that breaks an annotation. The
            message names the method, the argument, and the shapes beside the axis names.
    """
    if not protocols:
        raise ContractError("checked(impl, Protocol) needs at least one protocol, got none.")
    members = declarations_of(protocols)
    for declarations in members.values():
        for declaration in declarations:
            _check_presence(impl, declaration)
    namespace = _make_namespace(impl, members)
    try:
        proxy_type = types.new_class(
            type(impl).__name__, (type(impl),), exec_body=lambda body: body.update(namespace)
        )
        proxy: Any = object.__new__(proxy_type)
    except TypeError:
        # Its class cannot be derived from, or is not made from nothing, such as `function`.
        forwarded = {n: _forward(impl, n) for n in _FORWARDED if hasattr(type(impl), n)}
        proxy = object.__new__(type(type(impl).__name__, (), {**forwarded, **namespace}))
    if hasattr(impl, "__dict__"):
        object.__setattr__(proxy, "__dict__", impl.__dict__)
    return typing.cast("_T", proxy)


def _make_namespace(impl: Any, members: _Members) -> dict[str, Any]:
    """Return what a proxy does differently: it asks the object, and looks at the answer."""

    def __getattribute__(self: object, name: str) -> Any:
        if name in members:
            return _read(impl, members[name])
        is_special = name.startswith("__") and name.endswith("__")
        return object.__getattribute__(self, name) if is_special else getattr(impl, name)

    def __setattr__(self: object, name: str, value: Any) -> None:
        del self
        setattr(impl, name, value)

    def __delattr__(self: object, name: str) -> None:
        del self
        delattr(impl, name)

    namespace: dict[str, Any] = {
        "__module__": type(impl).__module__,
        "__qualname__": type(impl).__qualname__,
        "__doc__": type(impl).__doc__,
        "__class__": property(lambda self: type(impl)),
        "__getattribute__": __getattribute__,
        "__setattr__": __setattr__,
        "__delattr__": __delattr__,
    }
    if "__call__" in members:
        namespace["__call__"] = _forward(impl, "__call__", members["__call__"])
    return namespace


def _forward(impl: Any, name: str, declarations: list[Declaration] | None = None) -> Any:
    """Return a special method for the proxy's class, where Python looks for those."""
    own = getattr(type(impl), name)
    if not callable(own):  # such as `__hash__ = None`
        return own

    @functools.wraps(own)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        del self
        target = getattr(impl, name) if declarations is None else _read(impl, declarations)
        return target(*args, **kwargs)

    return call


def _read(impl: Any, declarations: list[Declaration]) -> Any:
    value = getattr(impl, declarations[0].name)
    for declaration in declarations:
        if declaration.function is None:
            _check_value(impl, declaration, value)
    methods = [declaration for declaration in declarations if declaration.function is not None]
    return _check_calls(impl, methods, value) if methods else value


def _check_calls(
    impl: Any, declarations: list[Declaration], method: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = [_bind(impl, declaration, args, kwargs) for declaration in declarations]
        for declaration, arguments in zip(declarations, bound, strict=True):
            _check_call(impl, declaration, arguments)
        result = method(*args, **kwargs)
        for declaration, arguments in zip(declarations, bound, strict=True):
            # Binds the axis names again, now up to the result; none of them is in force meanwhile.
            _check_call(impl, declaration, {**arguments, "return": result})
        return result

    return call


def _bind(
    impl: Any, declaration: Declaration, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by the protocol's names, those of a `*args` one by one."""
    try:
        bound = declaration.signature.bind(impl, *args, **kwargs).arguments
    except TypeError as error:
        raise ContractError(
            f"{_place(impl, declaration)}: {error}. The protocol's signature is "
            f"{declaration.name}{declaration.signature}."
        ) from error
    return dict(list(bound.items())[1:])


@no_type_check
def _check_call(impl: Any, declaration: Declaration, values: dict[str, Any]) -> None:
    with jaxtyping.jaxtyped("context"):
        for name, value, hint in _pair(declaration, values):
            if not satisfies(value, hint):
                what = "the result" if name == "return" else f"argument {name!r}"
                raise ContractError(
                    f"{_place(impl, declaration)}: {what} is {describe_value(value)}, expected "
                    f"{describe_hint(hint)}.{_describe_axes(declaration, values, name)}"
                )


@no_type_check
def _check_value(impl: Any, declaration: Declaration, value: Any) -> None:
    hint = declaration.hints["return"]
    with jaxtyping.jaxtyped("context"):
        if not satisfies(value, hint):
            raise ContractError(
                f"{_place(impl, declaration)} is {describe_value(value)}, expected "
                f"{describe_hint(hint)}."
            )


def _pair(declaration: Declaration, values: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each annotated value with its name and annotation."""
    parameters = declaration.signature.parameters
    for name, value in values.items():
        if name in declaration.hints:
            kind = parameters[name].kind if name in parameters else None
            for held in _spread(kind, value):
                yield name, held, declaration.hints[name]


def _spread(kind: Any, value: Any) -> tuple[Any, ...]:
    """Return what an annotation speaks of: each one of `*args` and `**kwargs`."""
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return tuple(value)
    return tuple(value.values()) if kind is inspect.Parameter.VAR_KEYWORD else (value,)


def _describe_axes(declaration: Declaration, values: Mapping[str, Any], failed: str) -> str:
    """Say which tensors bound the axis names that a value was held against."""
    bound = [
        f"{name}: {describe_hint(hint)} has shape {tuple(value.shape)}"
        for name, value, hint in _pair(declaration, values)
        if name != failed and hasattr(value, "shape")
    ]
    return f" Axis names agree throughout a call; {'; '.join(bound)}." if bound else ""


def _place(impl: Any, declaration: Declaration) -> str:
    return f"{type(impl).__name__}.{declaration.name} breaks {declaration.protocol}"


def _check_presence(impl: Any, declaration: Declaration) -> None:
    name = declaration.name
    missing = inspect.getattr_static(impl, name, impl) is impl
    # A property is not read here: it may cost something, or not be ready yet.
    if missing and not hasattr(impl, name):
        raise ContractError(f"{_place(impl, declaration)}: there is no {name!r}. Define it.")
    if declaration.function is None:
        return
    method = getattr(impl, name)
    if not callable(method):
        raise ContractError(f"{_place(impl, declaration)}: it is {describe_value(method)}.")
    if getattr(method, "__func__", None) is declaration.function:
        return
    misfit = _find_misfit(method, declaration)
    if misfit is not None:
        raise ContractError(
            f"{_place(impl, declaration)}: it {misfit}. The protocol's signature is "
            f"{name}{declaration.signature}."
        )


def _find_misfit(method: Callable[..., Any], declaration: Declaration) -> str | None:
    try:
        own = inspect.signature(method)
    except (TypeError, ValueError):
        return None  # built in: it says nothing of its signature
    parameters = list(declaration.signature.parameters.values())[1:]
    return find_misfit(own, declaration.signature.replace(parameters=parameters))
