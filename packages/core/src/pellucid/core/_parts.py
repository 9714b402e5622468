"""A trigger of several parts, each of which has a place of its own in the templates."""

from collections.abc import Sequence
from typing import TypeAlias

from pellucid.core._errors import ArgumentError
from pellucid.core._targets import DEFAULT_INIT_TRIGGER, OPTIMIZED_TRIGGER_PLACEHOLDER

TRIGGER_PART_SEPARATOR = "\u241e"
"""Stands between the parts of a trigger that is written as one text (the symbol for RS)."""

InitialTrigger: TypeAlias = str | Sequence[str]
"""Where a search starts: a text, or the text of each part."""


def number_placeholder(part: int) -> str:
    """Return what marks the place of a part of the trigger, counted from 1."""
    return f"{OPTIMIZED_TRIGGER_PLACEHOLDER[:-2]}_{part}}}}}"


def split_parts(trigger: str) -> list[str]:
    """Return the parts of a trigger that is written as one text."""
    return trigger.split(TRIGGER_PART_SEPARATOR)


def join_parts(parts: InitialTrigger) -> str:
    """Return the parts of a trigger as one text; a text is returned as it is.

    Raises:
        ArgumentError: (a ValueError) If there is no part, if one is no text, or if one of several
            holds the separator.
    """
    if isinstance(parts, str):
        return parts
    held = list(parts)
    if not held or not all(isinstance(part, str) for part in held):
        raise ArgumentError(
            f"the parts of a trigger must be at least one text, got {parts!r}. "
            "Give one text for each part."
        )
    for part in held:
        if len(held) > 1 and TRIGGER_PART_SEPARATOR in part:
            raise ArgumentError(
                f"the part {part!r} of a trigger holds {TRIGGER_PART_SEPARATOR!r}, which separates "
                "parts. Leave it out."
            )
    return TRIGGER_PART_SEPARATOR.join(held)


def choose_start(initial_trigger: InitialTrigger | None, n_parts: int) -> str:
    """Return where a search starts, as one text.

    Args:
        initial_trigger: What the caller gave; `DEFAULT_INIT_TRIGGER`, shared out among the parts,
            when None.
        n_parts: How many parts the templates number; 0 if the placeholder bears no number.

    Raises:
        ArgumentError: (a ValueError) If the trigger has another number of parts.
    """
    n_wanted = max(n_parts, 1)
    if initial_trigger is None:
        words = DEFAULT_INIT_TRIGGER.split(" ")
        shares = [words[i::n_wanted] or words[:1] for i in range(n_wanted)]
        return join_parts([" ".join(share) for share in shares])
    n_given = 1 if isinstance(initial_trigger, str) else len(initial_trigger)
    text = join_parts(initial_trigger)
    if n_parts and isinstance(initial_trigger, str):
        n_given = len(split_parts(text))
    if n_given != n_wanted:
        raise ArgumentError(
            f"the initial trigger {initial_trigger!r} has {n_given} parts, and the templates have "
            f"places for {n_wanted}. Give a list of {n_wanted} texts, or one text in which "
            f"{TRIGGER_PART_SEPARATOR!r} separates the parts."
        )
    return text
