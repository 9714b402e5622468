"""Finds plugins by entry point; our own packages register as anybody's do.

Nothing is imported before it is asked for by name.
"""

import functools
from importlib.metadata import entry_points
from typing import Any

from pellucid.core._errors import MissingDependencyError, UnknownNameError

GROUPS = {
    "pellucid.architectures": "architecture",
    "pellucid.families": "family",
    "pellucid.losses": "loss",
    "pellucid.model_sources": "model source",
    "pellucid.models": "model",
    "pellucid.optimizers": "optimizer",
    "pellucid.recipes": "recipe",
    "pellucid.trackers": "tracker",
}
"""The entry-point groups of Pellucid, and what one entry of each is called."""

_HOMES = {
    "pellucid.losses": "pellucid-losses",
    "pellucid.model_sources": "pellucid-zoo",
    "pellucid.models": "pellucid-hf",
    "pellucid.optimizers": "pellucid-optimizers",
    "pellucid.recipes": "pellucid-recipes",
    "pellucid.trackers": "pellucid-optimizers",
}


def names(group: str) -> list[str]:
    """Return the names registered in a group, sorted.

    Raises:
        UnknownNameError: If there is no such group.
    """
    return sorted(_entries(group))


def load(group: str, name: str) -> Any:
    """Import and return what a name in a group stands for.

    Args:
        group: One of `GROUPS`.
        name: A registered name.

    Raises:
        UnknownNameError: If the group or the name is unknown; near matches are offered.
        MissingDependencyError: If the plugin needs a distribution that is not installed, or if
            nothing at all is installed that registers in the group.
    """
    entries = _entries(group)
    if not entries and group in _HOMES:
        raise MissingDependencyError(
            f"no package that registers in {group!r} is installed, so {name!r} is not known. "
            f"pip install {_HOMES[group]}"
        )
    if name not in entries:
        raise UnknownNameError(GROUPS[group], name, entries)
    return _import(entries[name])


# Not EntryPoint: once anybody has imported the backport importlib_metadata, the standard library
# returns the backport's own.
@functools.cache
def _entries(group: str) -> dict[str, Any]:
    if group not in GROUPS:
        raise UnknownNameError("entry-point group", group, GROUPS)
    return {entry.name: entry for entry in entry_points(group=group)}


def _import(entry: Any) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        home = entry.dist.name if entry.dist else "its distribution"
        raise MissingDependencyError(
            f"{entry.name!r} ({entry.value}) needs the module {error.name!r}, which is not "
            f"installed. Install {home} with the extra that brings it."
        ) from error
    except AttributeError as error:
        raise MissingDependencyError(
            f"{entry.name!r} is registered as {entry.value!r}, where there is nothing ({error}). "
            "Install a version of its distribution that fits."
        ) from error
