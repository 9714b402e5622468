"""Hook points: the activations of a model by name, and the functions attached to them."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pellucid.bridge._engine._execution import active_execution, resume, suspend
from pellucid.bridge._errors import HookError
from pellucid.core import ArgumentError

Direction: TypeAlias = Literal["fwd", "bwd"]
HookFunction: TypeAlias = Callable[..., Any]
"""Called as `fn(tensor, hook=point)`; returns None to leave the tensor, or its replacement."""

_LAYER = re.compile(r"(?:^|\.)(?:\w+_)?blocks\.(\d+)\.")


@dataclasses.dataclass(eq=False, kw_only=True)
class LensHandle:
    """One function attached to one hook point.

    Attributes:
        hook: The function.
        is_permanent: Whether `reset_hooks` leaves it in place.
        context_level: How deep in `hooks` contexts it was attached; None outside of them.
    """

    hook: HookFunction
    is_permanent: bool = False
    context_level: int | None = None
    _remove: Callable[["LensHandle"], None] | None = None

    @property
    def user_hook(self) -> HookFunction:
        """The function, under the name that its users know as well."""
        return self.hook

    def remove(self) -> None:
        """Detach the function; a second time does nothing."""
        if self._remove is not None:
            self._remove(self)
            self._remove = None


class HookPoint:
    """A named activation. It is no module and stands in no model's way.

    Attributes:
        name: The canonical name.
        ctx: For hook functions to remember things in, until `clear_context`.
        fwd_hooks: Functions attached to the activation.
        bwd_hooks: Functions attached to its gradient.

    Args:
        name: The canonical name.
        attached: Gets the name of every point that has had a function attached.
    """

    def __init__(self, name: str, attached: set[str] | None = None) -> None:
        self.name = name
        self.ctx: dict[str, Any] = {}
        self.fwd_hooks: list[LensHandle] = []
        self.bwd_hooks: list[LensHandle] = []
        self._attached: set[str] = set() if attached is None else attached

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r})"

    @property
    def step(self) -> int | None:
        """Which step of `generate` this is, from 0; None elsewhere."""
        execution = active_execution()
        return None if execution is None else execution.step

    def layer(self) -> int:
        """Return the block's number.

        Raises:
            ArgumentError: (a ValueError) If the activation belongs to no block.
        """
        found = _LAYER.search(self.name)
        if found is None:
            raise ArgumentError(f"{self.name!r} belongs to no block, so it has no layer.")
        return int(found.group(1))

    def add_hook(
        self,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> LensHandle:
        """Attach a function.

        Args:
            hook: Called as `fn(tensor, hook=point)`.
            dir: "fwd" for the activation, "bwd" for its gradient.
            is_permanent: Whether `reset_hooks` leaves it in place.
            level: A mark by which to remove it.
            prepend: Whether it comes before those attached already.

        Returns:
            What removes it.
        """
        hooks = self._hooks(dir)

        def remove(held: LensHandle) -> None:
            # A reset may have detached it before.
            if held in hooks:
                hooks.remove(held)

        handle = LensHandle(
            hook=hook, is_permanent=is_permanent, context_level=level, _remove=remove
        )
        hooks.insert(0 if prepend else len(hooks), handle)
        self._attached.add(self.name)
        return handle

    def add_perma_hook(self, hook: HookFunction, dir: Direction = "fwd") -> LensHandle:
        """Attach a function that `reset_hooks` leaves in place."""
        return self.add_hook(hook, dir=dir, is_permanent=True)

    def remove_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Detach functions; those of one level only, if it is given."""
        for direction in ("fwd", "bwd") if dir == "both" else (dir,):
            hooks = self._hooks(direction)
            hooks[:] = [
                held
                for held in hooks
                if (held.is_permanent and not including_permanent)
                or (level is not None and held.context_level != level)
            ]

    def clear_context(self) -> None:
        """Forget what hook functions have remembered."""
        self.ctx.clear()

    def _hooks(self, direction: str) -> list[LensHandle]:
        if direction not in ("fwd", "bwd"):
            raise ArgumentError(f"dir must be 'fwd' or 'bwd', got {direction!r}.")
        return self.fwd_hooks if direction == "fwd" else self.bwd_hooks


class Firing:
    """What happens at one hook point during one run.

    Args:
        point: The hook point.
        forward: Functions of the activation, first to last.
        backward: Functions of its gradient, first to last.
    """

    __slots__ = ("_is_quiet", "backward", "forward", "point")

    def __init__(
        self,
        point: HookPoint,
        forward: tuple[HookFunction, ...],
        backward: tuple[HookFunction, ...],
    ) -> None:
        self.point = point
        self.forward = forward
        self.backward = backward
        # Functions of ours run nothing; those of users may run the model.
        self._is_quiet = all(
            getattr(getattr(function, "__self__", None), "is_quiet", False) for function in forward
        )

    def __call__(self, value: Tensor) -> Tensor:
        """Return the activation as the rest of the model shall see it."""
        if self._is_quiet:
            for function in self.forward:
                function(value, hook=self.point)
        else:
            token = suspend()
            try:
                value = self._call(value)
            finally:
                resume(token)
        return self._watch(value) if self.backward and torch.is_grad_enabled() else value

    def _call(self, value: Tensor) -> Tensor:
        for function in self.forward:
            made = function(value, hook=self.point)
            if made is not None and made is not value:
                value = self._check(made, value)
        return value

    def _watch(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        # A node of its own, so that the gradient is that of all that follows this point alone.
        twin = value.view_as(value)
        if not twin.requires_grad:
            twin.requires_grad_()
        twin.register_hook(self._fire_backward)
        return twin

    def _fire_backward(self, gradient: Tensor) -> Tensor:
        for function in self.backward:
            made = function(gradient, hook=self.point)
            if made is not None and made is not gradient:
                gradient = self._check(made[0] if isinstance(made, tuple) else made, gradient)
        return gradient

    def _check(self, made: Any, value: Tensor) -> Tensor:
        if not isinstance(made, Tensor):
            raise HookError(
                f"a hook on {self.point.name!r} returned a {type(made).__name__}, expected a "
                "tensor or None."
            )
        if made.shape == value.shape:
            return made
        try:
            return made.expand(value.shape)
        except RuntimeError as error:
            raise HookError(
                f"a hook on {self.point.name!r} returned shape {tuple(made.shape)}, expected "
                f"{tuple(value.shape)}."
            ) from error
