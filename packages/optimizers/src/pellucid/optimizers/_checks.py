"""Refuses senseless settings when an optimizer is made."""

import math
from typing import Any, get_args

from pellucid.core import ArgumentError


def check_choice(name: str, value: str, kind: Any) -> None:
    """Refuse a word that is not among those of a `Literal`.

    Raises:
        ArgumentError: (a ValueError) If it is not.
    """
    if value not in get_args(kind):
        raise ArgumentError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}.")


def check_positive(**numbers: Any) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ArgumentError: (a ValueError) For the first that is not.
    """
    for name, value in numbers.items():
        if not _is_number(value) or value <= 0:
            raise ArgumentError(f"{name} must be a finite number above 0, got {value!r}.")


def check_shares(**numbers: Any) -> None:
    """Refuse what is not a number from 0 to 1.

    Raises:
        ArgumentError: (a ValueError) For the first that is not.
    """
    for name, value in numbers.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ArgumentError(f"{name} must be a number from 0 to 1, got {value!r}.")


def check_not_negative(**numbers: Any) -> None:
    """Refuse what is not a finite number of at least 0.

    Raises:
        ArgumentError: (a ValueError) For the first that is not.
    """
    for name, value in numbers.items():
        if not _is_number(value) or value < 0:
            raise ArgumentError(f"{name} must be a finite number of at least 0, got {value!r}.")


def check_factor(name: str, factor: Any) -> None:
    """Refuse a factor that makes less of what it multiplies or more of what it divides.

    Raises:
        ArgumentError: (a ValueError) If it is not a finite number of at least 1.
    """
    if not _is_number(factor) or factor < 1:
        raise ArgumentError(f"{name} must be a finite number of at least 1, got {factor!r}.")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
