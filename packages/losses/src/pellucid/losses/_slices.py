"""Finds a part of an input by its name."""

from collections.abc import Mapping

from pellucid.core import ArgumentError


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
