"""The places of a trigger in an input, and what lies around them."""

from collections.abc import Sequence
from typing import NamedTuple

from pellucid.core._errors import ArgumentError
from pellucid.core._targets import SliceKey


class TriggerSlot(NamedTuple):
    """One of the places of a trigger in an input.

    Attributes:
        positions: Where it lies in the input.
        columns: Which of the trigger's tokens stand there: all of them, or those of one part.
    """

    positions: slice
    columns: slice


def place_slots(n_fixed: Sequence[int], columns: Sequence[slice]) -> list[TriggerSlot]:
    """Return the places of a trigger, first to last.

    Args:
        n_fixed: How many tokens stand before the first place, between places, and after the last.
        columns: Which of the trigger's tokens stand in each place.
    """
    slots: list[TriggerSlot] = []
    end = 0
    for n_before, part in zip(n_fixed, columns, strict=False):
        start = end + n_before
        end = start + part.stop - part.start
        slots.append(TriggerSlot(slice(start, end), part))
    return slots


def slice_input(slots: Sequence[TriggerSlot], n_after: int, n_appended: int) -> dict[str, slice]:
    """Return where each part of an input lies, by `SliceKey`.

    Where the trigger has several places, `TRIGGER` is the first of them, `INPUT_BEFORE` what stands
    before that, and `INPUT_AFTER` what follows the last; what lies between has no name.

    Args:
        slots: The places of the trigger, at least one.
        n_after: How many tokens follow the last place.
        n_appended: How many of a target response follow these; 0 if none is appended.
    """
    first, last = slots[0].positions, slots[-1].positions
    end = last.stop + n_after
    slices: dict[str, slice] = {
        SliceKey.INPUT_BEFORE: slice(0, first.start),
        SliceKey.TRIGGER: first,
        SliceKey.INPUT_AFTER: slice(last.stop, end),
        SliceKey.INPUT_LAST_TOKEN: slice(end - 1, end),
    }
    if n_appended:
        slices[SliceKey.APPENDED] = slice(end, end + n_appended)
    return slices


def first_places(slots: Sequence[TriggerSlot], n_trigger: int) -> list[int]:
    """Return the position at which each of a trigger's tokens first stands.

    Raises:
        ArgumentError: If a part of the trigger has no place in the input.
    """
    places: dict[int, int] = {}
    for positions, columns in slots:
        for column in range(columns.start, columns.stop):
            places.setdefault(column, positions.start + column - columns.start)
    if len(places) < n_trigger:
        missing = min(set(range(n_trigger)) - places.keys())
        raise ArgumentError(
            f"token {missing} of the trigger belongs to a part that has no place in this template, "
            "so that nothing predicts it there. Let every template hold every part."
        )
    return [places[column] for column in range(n_trigger)]


def columns_of(part_lengths: Sequence[int]) -> list[slice]:
    """Return which of a trigger's tokens belong to each part."""
    ends = [sum(part_lengths[: i + 1]) for i in range(len(part_lengths))]
    return [slice(end - n, end) for end, n in zip(ends, part_lengths, strict=True)]
