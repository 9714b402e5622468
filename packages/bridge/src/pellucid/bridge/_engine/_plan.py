"""From functions on names to one run."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from pellucid.bridge._engine._attention import enter_attention, merge_steps
from pellucid.bridge._engine._execution import AttentionSteps, Enter, Execution, Plan, Slot, Step
from pellucid.bridge._engine._notes import NotePlan, Notes
from pellucid.bridge._names._points import Direction, Firing, HookFunction, HookPoint
from pellucid.bridge._names._table import HookTable

# How many sets of names a bridge remembers the plans of.
_N_PLANS = 64

_Compiled: TypeAlias = tuple[Plan | NotePlan, tuple[Enter, ...]]
Plans: TypeAlias = dict[tuple[frozenset[str], str], _Compiled]
"""Plans by the names of the activations concerned: which functions there are is a run's affair."""


@runtime_checkable
class Recorder(Protocol):
    """What keeps activations of a run, after all functions have had them."""

    @property
    def takes_notes(self) -> bool:
        """Whether it wants activations just as they are, in the memory where they are."""
        ...

    def take_notes(self, plan: Any) -> Notes:
        """Return the empty notes of a run by such a plan; what they hold at its end is kept."""
        ...

    def record(self, name: str, value: Tensor) -> Tensor:
        """Keep an activation; returns it."""
        ...


@dataclasses.dataclass(eq=False)
class Functions:
    """What is to be called at each activation in one run, by canonical name.

    Attributes:
        forward: Functions of activations.
        backward: Functions of gradients.
        depth: From within how many hook functions of the same bridge they were given.
        recorder: What keeps activations.
        recorded: The names of those.
    """

    forward: dict[str, list[HookFunction]] = dataclasses.field(default_factory=dict)
    backward: dict[str, list[HookFunction]] = dataclasses.field(default_factory=dict)
    depth: int = 0
    recorder: Recorder | None = None
    recorded: frozenset[str] = frozenset()

    def add(self, name: str, function: HookFunction, direction: Direction = "fwd") -> None:
        """Call a function after those already there."""
        held = self.forward if direction == "fwd" else self.backward
        held.setdefault(name, []).append(function)

    def add_attached(self, points: Iterable[HookPoint]) -> None:
        """Call what is attached to hook points."""
        for point in points:
            for handle in point.fwd_hooks:
                self.add(point.name, handle.hook)
            for handle in point.bwd_hooks:
                self.add(point.name, handle.hook, "bwd")

    def extend(self, other: "Functions") -> None:
        """Call those of another after those already there."""
        for name, held in other.forward.items():
            self.forward.setdefault(name, []).extend(held)
        for name, held in other.backward.items():
            self.backward.setdefault(name, []).extend(held)
        if other.recorder is not None:
            self.recorder, self.recorded = other.recorder, other.recorded

    def names(self) -> frozenset[str]:
        """Return the names at which something is to be done."""
        if not self.forward and not self.backward:
            return self.recorded
        return self.recorded.union(self.forward, self.backward)

    @property
    def only_notes(self) -> bool:
        """Whether nothing is to be done but to keep activations as they are."""
        takes_notes = self.recorder is not None and self.recorder.takes_notes
        return takes_notes and not self.forward and not self.backward

    def restrict(self, names: Iterable[str]) -> "Functions":
        """Return those that are called at some names."""
        kept = frozenset(names)
        return dataclasses.replace(
            self,
            forward={name: held for name, held in self.forward.items() if name in kept},
            backward={name: held for name, held in self.backward.items() if name in kept},
            recorded=self.recorded & kept,
        )

    def __bool__(self) -> bool:
        return bool(self.forward or self.backward or self.recorded)


def compile_execution(
    functions: Functions,
    table: HookTable,
    points: Mapping[str, HookPoint],
    further: Iterable[Step] = (),
    enter: Iterable[Enter] = (),
    *,
    step: int | None = None,
    last: Iterable[Step] = (),
    plans: Plans | None = None,
) -> Execution:
    """Return the run in which these functions are called, in the order of the forward pass.

    Args:
        functions: By canonical name.
        table: Of the model.
        points: The hook points handed to the functions.
        further: Steps that come before those.
        enter: Further things that the run does at its start.
        step: Which step of generation the run is.
        last: Steps that come after all others.
        plans: Those made so far, in which this one is looked up, or kept if it has no other steps.
    """
    names = functions.names()
    first, final = tuple(further), tuple(last)
    if first or final:
        plan, inside = _compile(names, table, first, final)
        fire = _fire(functions, points)
        return Execution(plan, fire, (*enter, *inside), step=step, owner=points)
    if functions.recorder is not None and functions.only_notes:
        is_tracked = not torch.is_inference_mode_enabled()
        key = (names, "tracked notes" if is_tracked else "notes")
        plan, inside = _look_up(plans, key, lambda: _compile_notes(names, table, is_tracked))
        notes = functions.recorder.take_notes(plan)
        return Execution(plan, None, (*enter, *inside), step=step, owner=points, notes=notes)
    plan, inside = _look_up(plans, (names, "steps"), lambda: _compile(names, table, (), ()))
    fire = _fire(functions, points)
    return Execution(plan, fire, (*enter, *inside), step=step, owner=points)


def _compile_notes(names: frozenset[str], table: HookTable, is_tracked: bool) -> _Compiled:
    readings = {name: table[name].tap.reading() for name in table.order(names)}
    plan = NotePlan(readings, is_tracked=is_tracked)
    return plan, tuple(enter_attention(plan.attention))


def _look_up(
    plans: Plans | None, key: tuple[frozenset[str], str], make: Callable[[], _Compiled]
) -> _Compiled:
    if plans is None:
        return make()
    known = plans.get(key)
    if known is None:
        known = make()
        if len(plans) >= _N_PLANS:
            plans.clear()
        plans[key] = known
    return known


def _compile(
    names: frozenset[str], table: HookTable, first: tuple[Step, ...], last: tuple[Step, ...]
) -> _Compiled:
    steps: list[Step] = []
    inside: list[AttentionSteps] = []
    for name in table.order(names):
        for made in table[name].tap.steps(Slot(name)):
            (steps if isinstance(made, Step) else inside).append(made)  # pyright: ignore[reportArgumentType] - one list each
    return Plan([*first, *steps, *last]), tuple(enter_attention(merge_steps(inside)))


def _fire(functions: Functions, points: Mapping[str, HookPoint]) -> Callable[[str, Tensor], Tensor]:
    recorder, recorded = functions.recorder, functions.recorded
    if recorder is not None and not functions.forward and not functions.backward:
        return recorder.record
    firings: dict[str, Any] = {
        name: Firing(
            points[name],
            tuple(functions.forward.get(name, ())),
            tuple(functions.backward.get(name, ())),
        )
        for name in {**functions.forward, **functions.backward}
    }

    def fire(name: str, value: Tensor) -> Tensor:
        firing = firings.get(name)
        if firing is not None:
            value = firing(value)
        if recorder is not None and name in recorded:
            recorder.record(name, value)
        return value

    return fire
