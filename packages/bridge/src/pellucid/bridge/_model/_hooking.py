"""The methods of a bridge that attach functions to activations."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pellucid.bridge._engine._caching import CacheWriter
from pellucid.bridge._engine._execution import count_suspended
from pellucid.bridge._engine._plan import Functions, Recorder, compile_execution
from pellucid.bridge._model._naming import Naming
from pellucid.bridge._names._points import Direction, HookFunction, HookPoint, LensHandle
from pellucid.bridge._names._table import HookKey, NamesFilter
from pellucid.core import ArgumentError

HookSelector: TypeAlias = HookKey | Callable[[str], bool]
HookPair: TypeAlias = tuple[HookSelector, HookFunction]

_GATES = (
    "use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in",
    "use_expert_results",
)  # fmt: skip
_EXCLUSIVE = {"use_split_qkv_input": "use_attn_in", "use_attn_in": "use_split_qkv_input"}


class Hooking(Naming):
    """Functions on activations, and the switches of what "all activations" means."""

    def add_hook(
        self,
        name: HookSelector,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> list[LensHandle]:
        """Attach a function to every activation that a name or predicate selects.

        Args:
            name: A name, an alias, a short name, or a function that is asked about names.
            hook: Called as `fn(tensor, hook=point)`; returns None or a replacement.
            dir: "fwd" for activations, "bwd" for their gradients.
            is_permanent: Whether `reset_hooks` leaves it in place.
            level: A mark by which to remove it.
            prepend: Whether it comes before those attached already.

        Returns:
            What removes each.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
            ArgumentError: (a ValueError) If the hook is no function.
        """
        points = [self._points[found] for found in self._select_for_hook(name)]
        for point in points:
            self.check_hooks_to_add(point, point.name, hook, dir, is_permanent, prepend)
        return [
            point.add_hook(hook, dir=dir, is_permanent=is_permanent, level=level, prepend=prepend)
            for point in points
        ]

    def check_hooks_to_add(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
    ) -> None:
        """Refuse what `add_hook` is not to attach; subclasses may refuse more.

        Raises:
            ArgumentError: (a ValueError) If the hook is no function.
        """
        if not callable(hook):
            raise ArgumentError(
                f"the hook for {hook_point_name!r} must be a function of (tensor, hook), got "
                f"{hook!r}."
            )

    def add_perma_hook(
        self, name: HookSelector, hook: HookFunction, dir: Direction = "fwd"
    ) -> list[LensHandle]:
        """Attach a function that `reset_hooks` leaves in place."""
        return self.add_hook(name, hook, dir=dir, is_permanent=True)

    def list_hooks(
        self,
        name_filter: NamesFilter = None,
        dir: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = True,
    ) -> dict[str, list[LensHandle]]:
        """Return the functions attached to each activation that has any, by canonical name.

        Args:
            name_filter: Which activations; all if None.
            dir: Which functions: of activations, of gradients, or both.
            including_permanent: Whether permanent ones count.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
            ArgumentError: (a ValueError) If the direction is unknown.
        """
        if dir not in ("fwd", "bwd", "both"):
            raise ArgumentError(f"dir must be 'fwd', 'bwd' or 'both', got {dir!r}.")
        found: dict[str, list[LensHandle]] = {}
        for name in self._table.select(name_filter):
            point = self._points[name]
            held = [*(point.fwd_hooks if dir != "bwd" else ())]
            held += point.bwd_hooks if dir != "fwd" else ()
            held = [one for one in held if including_permanent or not one.is_permanent]
            if held:
                found[name] = held
        return found

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Detach functions from all activations.

        Args:
            clear_contexts: Whether hook points forget what functions kept in their `ctx`.
            direction: "fwd", "bwd" or "both".
            including_permanent: Whether permanent ones go as well.
            level: Only those with this mark.
        """
        if clear_contexts:
            self.clear_contexts()
        self.remove_all_hook_fns(direction, including_permanent, level)

    def remove_all_hook_fns(
        self,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Detach functions as `reset_hooks` does, and leave contexts alone."""
        for name in tuple(self._attached):
            point = self._points[name]
            point.remove_hooks(direction, including_permanent, level)
            if not point.fwd_hooks and not point.bwd_hooks:
                self._attached.discard(name)

    def clear_contexts(self) -> None:
        """Let every hook point forget what functions kept in its `ctx`."""
        for point in self._points.values():
            point.clear_context()

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[HookPair] = (),
        bwd_hooks: Iterable[HookPair] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Generator[Any]:
        """Attach functions while the context is open, in this thread alone.

        Args:
            fwd_hooks: Pairs of a name or predicate and a function.
            bwd_hooks: The same for gradients.
            reset_hooks_end: Whether they are detached at the end; if not, they are attached as by
                `add_hook`.
            clear_contexts: Whether hook points then forget what functions kept in their `ctx`.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
            ArgumentError: (a ValueError) If a hook is no function.
        """
        functions = self._name_functions(fwd_hooks, bwd_hooks)
        functions.depth = count_suspended(self._points)
        if not reset_hooks_end:
            self._attach(functions)
        held = functions if reset_hooks_end else Functions()
        token = self._context.set((*self._context.get(), held))
        try:
            yield self
        finally:
            self._context.reset(token)
            if clear_contexts:
                for name in functions.names():
                    self._points[name].clear_context()

    @contextmanager
    def recording(self, names: Iterable[str], recorder: Recorder) -> Generator[None]:
        """Let a recorder have activations while the context is open, in this thread alone.

        Args:
            names: Canonical names of the activations.
            recorder: What keeps them.
        """
        functions = Functions(recorder=recorder, recorded=frozenset(names))
        functions.depth = count_suspended(self._points)
        token = self._context.set((*self._context.get(), functions))
        try:
            yield
        finally:
            self._context.reset(token)

    @contextmanager
    def running(self, step: int | None = None) -> Generator[None]:
        """Keep attached hooks in force on the original model, however it is called.

        Args:
            step: What `hook.step` says meanwhile.
        """
        functions = self._gather()
        if not functions:
            yield
            return
        with compile_execution(
            functions, self._table, self._points, enter=self._enter(), step=step, plans=self._plans
        ):
            yield

    # Caching.

    def select_names(self, names_filter: NamesFilter = None) -> list[str]:
        """Return the canonical names that a filter admits, without those whose gate is closed.

        Raises:
            HookNameError: (a KeyError) If a key names nothing.
        """
        if names_filter is not None:
            closed = self._closed_gates() if callable(names_filter) else frozenset[str]()
            return self._table.select(names_filter, closed)
        closed = self._closed_gates()
        if closed not in self._all_names:
            self._all_names[closed] = self._table.select(None, closed)
        return list(self._all_names[closed])

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, Tensor], list[HookPair], list[HookPair]]:
        """Return a dictionary, and the hooks that write activations and gradients into it.

        Args:
            names_filter: Which activations.
            incl_bwd: Whether there are hooks for gradients, which write under name + "_grad".
            device: Where to keep tensors; where they are if None.
            remove_batch_dim: Whether to drop the axis of a batch of one.
            cache: The dictionary; a new one if None.
            pos_slice: Which positions to keep.

        Raises:
            HookNameError: (a KeyError) If a key names nothing.
        """
        held = {} if cache is None else cache
        writer = CacheWriter(
            device=device, pos_slice=pos_slice, held=held, drops_batch=remove_batch_dim
        )
        names = self.select_names(names_filter)
        forward: list[HookPair] = [(name, writer.keep) for name in names]
        backward: list[HookPair] = [(name, writer.keep_gradient) for name in names]
        return held, forward, backward if incl_bwd else []

    def add_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Write activations of all further runs into a dictionary, until `reset_hooks`."""
        held, forward, backward = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim, cache
        )
        self._attach(self._name_functions(forward, backward))
        return held

    def cache_all(
        self,
        cache: dict[str, Tensor],
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """Write all activations of further runs into a dictionary, until `reset_hooks`."""
        self.add_caching_hooks(None, incl_bwd, device, remove_batch_dim, cache)

    def cache_some(
        self,
        cache: dict[str, Tensor],
        names: NamesFilter,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """Write some activations of further runs into a dictionary, until `reset_hooks`."""
        self.add_caching_hooks(names, incl_bwd, device, remove_batch_dim, cache)

    # Gates.

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Say whether "all activations" holds what each head writes, `hook_result`."""
        self._set_gate("use_attn_result", use_attn_result)

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Say whether "all activations" holds each head's inputs, `hook_q_input` and so on.

        Raises:
            ArgumentError: (a ValueError) If `use_attn_in` is on.
        """
        self._set_gate("use_split_qkv_input", use_split_qkv_input)

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Say whether "all activations" holds each head's input, `hook_attn_in`.

        Raises:
            ArgumentError: (a ValueError) If `use_split_qkv_input` is on.
        """
        self._set_gate("use_attn_in", use_attn_in)

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Say whether "all activations" holds the stream as the MLP alone reads it."""
        self._set_gate("use_hook_mlp_in", use_hook_mlp_in)

    def set_use_expert_results(self, use_expert_results: bool) -> None:
        """Say whether "all activations" holds what single experts of a mixture do."""
        self._set_gate("use_expert_results", use_expert_results)

    def _set_gate(self, gate: str, is_open: bool) -> None:
        other = _EXCLUSIVE.get(gate)
        if is_open and other is not None and getattr(self.cfg, other):
            raise ArgumentError(
                f"{gate} and {other} exclude each other: both replace the same inputs. Call "
                f"set_{other}(False) first."
            )
        if is_open and not any(spec.gate == gate for spec in self._table.values()):
            raise ArgumentError(
                f"no block of {type(self.original_model).__name__} has what {gate} stands for."
            )
        setattr(self.cfg, gate, is_open)

    def _closed_gates(self) -> frozenset[str]:
        return frozenset(gate for gate in _GATES if not getattr(self.cfg, gate))

    # What to call where.

    def _gather(self) -> Functions:
        functions = Functions()
        # A run that a hook function starts sees the hooks alone that are given to it.
        depth = count_suspended(self._points)
        if self._attached and not depth:
            functions.add_attached(self._points[name] for name in self._table.order(self._attached))
        for context in self._context.get():
            if context.depth == depth:
                functions.extend(context)
        return functions

    def _select_for_hook(self, selector: HookSelector) -> list[str]:
        if isinstance(selector, str):
            return [self._table.resolve(selector)]
        # A predicate is asked about what "all activations" means; a name may name what is gated.
        return self._table.select(selector, self._closed_gates())

    def _name_functions(
        self, fwd_hooks: Iterable[HookPair], bwd_hooks: Iterable[HookPair]
    ) -> Functions:
        functions = Functions()
        pairs: list[tuple[Iterable[HookPair], Direction]] = [(fwd_hooks, "fwd"), (bwd_hooks, "bwd")]
        for held, direction in pairs:
            for selector, function in held:
                for name in self._select_for_hook(selector):
                    if not callable(function):
                        self.check_hooks_to_add(self._points[name], name, function, direction)
                    functions.add(name, function, direction)
        return functions

    def _attach(self, functions: Functions) -> None:
        for name, held in functions.forward.items():
            for function in held:
                self._points[name].add_hook(function)
        for name, held in functions.backward.items():
            for function in held:
                self._points[name].add_hook(function, dir="bwd")
