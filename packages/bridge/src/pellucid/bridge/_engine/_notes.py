"""Runs that only read: what passes is noted, and activations are made of the notes when asked for.

A norm's scale, a head's part of a projection or an attention pattern costs the run nothing: each is
derived from what the modules concerned took and gave. Notes hold what a cache of everything would
hold anyway; where somebody writes into a noted tensor, what would be derived from it is refused.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from pellucid.bridge._engine._attention import merge_steps
from pellucid.bridge._engine._execution import (
    AttentionSteps,
    active_execution,
    find_main,
    take_argument,
)
from pellucid.bridge._engine._readings import Place, Reading, Source
from pellucid.bridge._engine._torch_hooks import HookSet, HookSite
from pellucid.bridge._errors import HookError

Notes: TypeAlias = list[Any]
"""For each source what passed, and its version then; None where nothing did."""

_Derivation: TypeAlias = tuple[tuple[int, ...], Callable[..., Any]]


class NotePlan:
    """Hooks that note what some activations are made of.

    Args:
        readings: How each activation is made, by canonical name, in the order of a forward pass.
        is_tracked: Whether tensors have versions by which to tell that they were written into;
            they have none in inference mode.
    """

    def __init__(self, readings: Mapping[str, Reading], *, is_tracked: bool) -> None:
        self._is_tracked = is_tracked
        sources = dict.fromkeys(s for reading in readings.values() for s in reading.sources)
        self._slots = {source: 2 * number for number, source in enumerate(sources)}
        self.derivations: dict[str, _Derivation] = {
            name: (tuple(self._slots[source] for source in reading.sources), reading.derive)
            for name, reading in readings.items()
        }
        self.at_once = tuple(n for n, reading in readings.items() if reading.needs_weights)
        self._hooks = HookSet(self._find_sites())
        self.install, self.remove = self._hooks.install, self._hooks.remove
        self.attention = merge_steps(self._find_steps())

    def start(self) -> Notes:
        """Return the empty notes of a run."""
        return [None] * (2 * len(self._slots))

    # What is installed.

    def _find_sites(self) -> Iterator[HookSite]:
        modules = dict.fromkeys(s.module for s in self._slots if s.place in ("before", "after"))
        for module in modules:
            taken = self._slots.get(Source(module, "before"))
            given = self._slots_of(module, "after")
            arguments = self._slots_of(module, "before")
            arguments.pop(0, None)
            if arguments:
                yield module, "before", self._note_arguments(arguments)
            # What a leaf takes is the same afterwards; others may write into it on the way.
            is_leaf = not list(module.children())
            if taken is not None and is_leaf and list(given) == [0]:
                yield module, "after", self._note_both(taken, given[0])
                continue
            if taken is not None:
                yield module, "before", self._note_taken(taken)
            if list(given) == [0]:
                yield module, "after", self._note_given(given[0])
            elif given:
                yield module, "after", self._note_items(given)

    def _slots_of(self, module: nn.Module, place: Place) -> dict[int | str, int]:
        """Return the slot of each item that a module takes or gives."""
        return {
            source.item: slot
            for source, slot in self._slots.items()
            if source.module is module and source.place == place
        }

    def _note_arguments(self, slots: Mapping[int | str, int]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            run = active_execution()
            if run is not None and run.plan is self:
                for item, slot in slots.items():
                    run.notes[slot] = take_argument(args, kwargs, item)

        return hook

    def _note_taken(self, slot: int) -> Callable[..., None]:
        is_tracked = self._is_tracked

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            run = active_execution()
            if run is not None and run.plan is self:
                notes = run.notes
                notes[slot] = value = args[0] if args else find_main(kwargs)
                if is_tracked:
                    notes[slot + 1] = getattr(value, "_version", None)

        return hook

    def _note_given(self, slot: int) -> Callable[..., None]:
        is_tracked = self._is_tracked

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            run = active_execution()
            if run is not None and run.plan is self:
                notes = run.notes
                notes[slot] = value = output if isinstance(output, Tensor) else output[0]
                if is_tracked:
                    notes[slot + 1] = getattr(value, "_version", None)

        return hook

    def _note_both(self, taken: int, given: int) -> Callable[..., None]:
        is_tracked = self._is_tracked

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            run = active_execution()
            if run is not None and run.plan is self:
                notes = run.notes
                notes[taken] = value = args[0] if args else find_main(kwargs)
                notes[given] = result = output if isinstance(output, Tensor) else output[0]
                if is_tracked:
                    notes[taken + 1] = getattr(value, "_version", None)
                    notes[given + 1] = getattr(result, "_version", None)

        return hook

    def _note_items(self, slots: Mapping[int | str, int]) -> Callable[..., None]:
        is_tracked = self._is_tracked

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            run = active_execution()
            if run is not None and run.plan is self:
                items: Any = (output,) if isinstance(output, Tensor) else output
                for item, slot in slots.items():
                    run.notes[slot] = value = items[item]
                    if is_tracked:
                        run.notes[slot + 1] = getattr(value, "_version", None)

        return hook

    def _find_steps(self) -> Iterator[AttentionSteps]:
        for source, slot in self._slots.items():
            if source.place not in ("before", "after"):
                functions: dict[str, Any] = {source.place: (self._note_inside(slot),)}
                # Attention with weights of its own, sinks say, cannot be done again: they change.
                is_bare = not list(source.module.parameters(recurse=False))
                slots: dict[Any, int] = {source.place: slot} if is_bare else {}
                yield AttentionSteps(source.module, **functions, slots=slots)

    def _note_inside(self, slot: int) -> Callable[[Tensor], Tensor]:
        is_tracked = self._is_tracked

        def note(value: Tensor) -> Tensor:
            run = active_execution()
            if run is not None and run.plan is self:
                run.notes[slot] = value
                if is_tracked:
                    run.notes[slot + 1] = value._version
            return value

        return note


class NotedTensors(MutableMapping[str, Tensor]):
    """Activations by canonical name, each made when it is first asked for.

    Args:
        plan: By which notes were taken.
        notes: These.
    """

    def __init__(self, plan: NotePlan, notes: Notes) -> None:
        self._derivations = plan.derivations
        self._notes = notes
        self._settle()
        self._held: dict[str, Tensor] = {}
        # Those that are left, once somebody has asked which there are.
        self._names: dict[str, None] | None = None
        for name in plan.at_once:
            if name in self:
                self[name] = self[name]

    def __getitem__(self, name: str) -> Tensor:
        found = self._held.get(name)
        if found is None:
            if name not in self:
                raise KeyError(name)
            found = self._held[name] = self._derive(name)
        return found

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._list()[name] = None
        self._held[name] = value

    def __delitem__(self, name: str) -> None:
        del self._list()[name]
        self._held.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._list()

    def __iter__(self) -> Iterator[str]:
        return iter(self._list())

    def __len__(self) -> int:
        return len(self._list())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} activations)"

    def __reduce__(self) -> Any:
        return dict, (dict(self),)

    def _list(self) -> dict[str, None]:
        if self._names is None:
            notes = self._notes
            self._names = {
                name: None
                for name, (slots, _) in self._derivations.items()
                if all(notes[slot] is not None for slot in slots)
            }
        return self._names

    def _derive(self, name: str) -> Tensor:
        slots, derive = self._derivations[name]
        for slot in slots:
            self._refuse_written(slot, name)
        made = derive(*(self._notes[slot] for slot in slots))
        return made.detach() if made.requires_grad else made

    def _settle(self) -> None:
        """Let go of the graph, in the same memory, and see that nothing was written into."""
        notes = self._notes
        for slot in range(0, len(notes), 2):
            value, version = notes[slot], notes[slot + 1]
            if version is not None and value._version != version:
                names = (n for n, (slots, _) in self._derivations.items() if slot in slots)
                raise written_into(next(names))
            if getattr(value, "requires_grad", False):
                notes[slot] = value.detach()

    def _refuse_written(self, slot: int, name: str) -> None:
        value, version = self._notes[slot], self._notes[slot + 1]
        if version is not None and value._version != version:
            raise HookError(
                f"{name!r} would be derived from a tensor that was written into after the run. "
                "Read it first, or write into a copy."
            )


def written_into(name: str) -> HookError:
    """Return the error of a model that writes into what it has made."""
    return HookError(
        f"the model has changed {name!r} in place after it was cached. Say so in its record, "
        "Architecture(writes_in_place=True), and the cache keeps copies."
    )
