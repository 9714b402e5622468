"""Which layers and positions of a model's insides a loss reads, and which an output holds."""

import dataclasses
from collections.abc import Mapping, Sequence

from pellucid.core._errors import ArgumentError
from pellucid.core._slots import TriggerSlot
from pellucid.core._targets import SliceKey

STATE_FIELDS = ("full_hidden_states", "full_attentions")
"""The fields of `ModelOutput` of which a loss may read a part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldStates:
    """The part of all hidden states or attention patterns that a tensor of an output is.

    Attributes:
        n_layers: How many layers the model has.
        layers: Which of them the tensor holds, ascending, from 0.
        n_pos: How many positions the input has.
        positions: Which of them it holds; of attention patterns, those that attend.
        key_positions: Of attention patterns, the positions attended to.
    """

    n_layers: int
    layers: tuple[int, ...]
    n_pos: int
    positions: slice
    key_positions: slice | None = None

    @property
    def n_held(self) -> int:
        """How many positions the tensor holds."""
        return self.positions.stop - self.positions.start

    def find_layers(self, layers: Sequence[int]) -> list[int]:
        """Return where layers lie on the tensor's axis.

        Args:
            layers: Layer numbers from 0, negative ones from the last; each in range.

        Raises:
            ArgumentError: (a ValueError) If one of them is not held.
        """
        wanted = [layer % self.n_layers for layer in layers]
        missing = sorted(set(wanted) - set(self.layers))
        if missing:
            raise ArgumentError(
                f"layers {missing!r} are not held, only {list(self.layers)!r} are. "
                "A loss's `selections` must name every layer that the loss reads."
            )
        return [self.layers.index(layer) for layer in wanted]

    def find_positions(self, positions: Sequence[int], *, keys: bool = False) -> list[int]:
        """Return where positions of the input lie on the tensor's axis.

        Args:
            positions: Positions of the input, from 0.
            keys: Whether positions attended to are meant.

        Raises:
            ArgumentError: (a ValueError) If one of them is not held.
        """
        held = self.key_positions if keys and self.key_positions is not None else self.positions
        missing = sorted({i for i in positions if not held.start <= i < held.stop})
        if missing:
            raise ArgumentError(
                f"positions {missing!r} are not held, only {held.start} to {held.stop - 1} are. "
                "A loss's `selections` must name the part that it reads."
            )
        return [i - held.start for i in positions]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateSelection:
    """What a loss reads of hidden states or of attention patterns.

    Attributes:
        layers: Layer numbers from 0, negative ones from the last; all when None.
        part: The part of the input, by `SliceKey`, whose positions are read; of attention patterns,
            those that attend; all when None. The trigger is all of its places, and what lies
            between them.
        key_part: Of attention patterns, the part that is attended to; all when None.
    """

    layers: tuple[int, ...] | None = None
    part: str | None = None
    key_part: str | None = None

    def join(self, other: "StateSelection") -> "StateSelection":
        """Return a selection that covers both."""
        layers = None
        if self.layers is not None and other.layers is not None:
            layers = tuple(sorted({*self.layers, *other.layers}))
        return StateSelection(
            layers=layers,
            part=self.part if self.part == other.part else None,
            key_part=self.key_part if self.key_part == other.key_part else None,
        )

    def locate(
        self,
        *,
        n_layers: int,
        n_pos: int,
        input_slices: Mapping[str, slice],
        trigger_slots: Sequence[TriggerSlot] | None = None,
    ) -> HeldStates:
        """Return what is to be held of an input.

        Where a layer or a part does not exist, all are held, and the loss says what is wrong.

        Args:
            n_layers: How many layers the model has.
            n_pos: How many positions the input has.
            input_slices: Where its parts lie.
            trigger_slots: Where the trigger stands, if in several places.
        """
        parts = dict(input_slices)
        if trigger_slots:
            first, last = trigger_slots[0].positions, trigger_slots[-1].positions
            parts[SliceKey.TRIGGER] = slice(first.start, last.stop)
        layers = range(n_layers) if self.layers is None else self.layers
        if not layers or not all(-n_layers <= layer < n_layers for layer in layers):
            layers = range(n_layers)
        return HeldStates(
            n_layers=n_layers,
            layers=tuple(sorted({layer % n_layers for layer in layers})),
            n_pos=n_pos,
            positions=_span(self.part, n_pos, parts),
            key_positions=_span(self.key_part, n_pos, parts),
        )


def join_selections(
    selections: Sequence[Mapping[str, StateSelection] | None], field: str
) -> StateSelection | None:
    """Return what covers all that several losses read of a field; None if that is all of it.

    Args:
        selections: For each loss that reads the field, its selections.
        field: A name out of `STATE_FIELDS`.
    """
    joined: StateSelection | None = None
    for held in selections:
        one = None if held is None else held.get(field)
        if one is None:
            return None
        joined = one if joined is None else joined.join(one)
    return joined


def _span(part: str | None, n_pos: int, input_slices: Mapping[str, slice]) -> slice:
    found = None if part is None else input_slices.get(part)
    start, stop, _ = (found or slice(None)).indices(n_pos)
    return slice(start, stop) if start < stop else slice(0, n_pos)
