"""From functions on names to the steps of one run."""

import dataclasses
from collections.abc import Iterable, Mapping

from pellucid.bridge._attention import enter_attention, merge_steps
from pellucid.bridge._execution import AttentionSteps, Enter, Execution, Step
from pellucid.bridge._points import Direction, Firing, HookFunction, HookPoint
from pellucid.bridge._table import HookTable


@dataclasses.dataclass(eq=False)
class Functions:
    """What is to be called at each activation in one run, by canonical name."""

    forward: dict[str, list[HookFunction]] = dataclasses.field(default_factory=dict)
    backward: dict[str, list[HookFunction]] = dataclasses.field(default_factory=dict)

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

    def names(self) -> list[str]:
        """Return the names at which something is to be called."""
        return list({**self.forward, **self.backward})

    def restrict(self, names: Iterable[str]) -> "Functions":
        """Return those that are called at some names."""
        kept = set(names)
        return Functions(
            {name: held for name, held in self.forward.items() if name in kept},
            {name: held for name, held in self.backward.items() if name in kept},
        )

    def __bool__(self) -> bool:
        return bool(self.forward or self.backward)


def compile_execution(
    functions: Functions,
    table: HookTable,
    points: Mapping[str, HookPoint],
    further: Iterable[Step] = (),
    enter: Iterable[Enter] = (),
    *,
    step: int | None = None,
    last: Iterable[Step] = (),
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
    """
    steps: list[Step] = list(further)
    inside: list[AttentionSteps] = []
    for name in table.order(functions.forward.keys() | functions.backward.keys()):
        fire = Firing(
            points[name],
            tuple(functions.forward.get(name, ())),
            tuple(functions.backward.get(name, ())),
        )
        for made in table[name].tap.steps(fire):
            (steps if isinstance(made, Step) else inside).append(made)  # pyright: ignore[reportArgumentType] - one list each
    steps.extend(last)
    return Execution(steps, [*enter, *enter_attention(merge_steps(inside))], step=step)
