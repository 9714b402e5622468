"""Finds a part of an input by its name."""

from collections.abc import Mapping, Sequence

from pellucid.core import ArgumentError, HeldStates, SliceKey, TriggerSlot


def find_span(input_slices: Mapping[str, slice | None], name: str, n_pos: int) -> tuple[int, int]:
    """Return where a part of the input begins and where it ends.

    Args:
        input_slices: The parts by `SliceKey`.
        name: The part's name.
        n_pos: The number of positions of the input.

    Returns:
        The first position, and the first one after the last.

    Raises:
        ArgumentError: (a ValueError) If the input has no such part, or if it has no positions.
    """
    part = input_slices.get(name)
    if part is None:
        held = ", ".join(repr(str(key)) for key, value in input_slices.items() if value is not None)
        raise ArgumentError(
            f"input_slices has no part {str(name)!r} (it has {held or 'none'}). "
            "Choose one of those, or a model and a flow that set it."
        )
    start, stop, _ = part.indices(n_pos)
    if stop <= start:
        raise ArgumentError(
            f"the part {str(name)!r} holds no position: {part!r} of {n_pos} positions. "
            "Choose a part that holds at least one."
        )
    return start, stop


def find_positions(
    input_slices: Mapping[str, slice | None],
    name: str,
    n_pos: int,
    trigger_slots: Sequence[TriggerSlot] | None,
) -> list[int]:
    """Return the positions of a part of the input; those of the trigger in all of its places.

    Args:
        input_slices: The parts by `SliceKey`.
        name: The part's name.
        n_pos: The number of positions of the input.
        trigger_slots: The places of the trigger, if they are known.

    Raises:
        ArgumentError: (a ValueError) If the input has no such part, or if it has no positions.
    """
    start, stop = find_span(input_slices, name, n_pos)
    if name != SliceKey.TRIGGER or trigger_slots is None or len(trigger_slots) == 1:
        return list(range(start, stop))
    return [i for slot in trigger_slots for i in range(*slot.positions.indices(n_pos))]


def find_held(
    input_slices: Mapping[str, slice | None],
    name: str,
    n_pos: int,
    trigger_slots: Sequence[TriggerSlot] | None,
    *,
    held: HeldStates | None,
    keys: bool = False,
) -> list[int]:
    """Return where the positions of a part lie in a tensor that may hold a part of an input only.

    Args:
        input_slices: The parts by `SliceKey`.
        name: The part's name.
        n_pos: The number of positions of the tensor.
        trigger_slots: The places of the trigger, if they are known.
        held: Which positions the tensor holds; all when None.
        keys: Whether positions attended to are meant.

    Raises:
        ArgumentError: (a ValueError) If the input has no such part, if it has no positions, or if
            one of them is not held.
    """
    if held is None:
        return find_positions(input_slices, name, n_pos, trigger_slots)
    positions = find_positions(input_slices, name, held.n_pos, trigger_slots)
    return held.find_positions(positions, keys=keys)
