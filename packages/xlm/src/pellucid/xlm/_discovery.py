"""Where families come from: installed packages, and directories that a user names.

Nothing here imports torch, or a family: only where its modules and configurations lie is asked.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from pellucid.core import ArgumentError

GROUP = "pellucid.families"
PATH_VARIABLE = "XLM_MODELS_PATH"
PACKAGES_VARIABLE = "XLM_MODELS_PACKAGES"
LIST_NAME = "xlm_models.json"


class ExternalModelConflictError(ArgumentError):
    """Two places offer a family of one name.

    Attributes:
        name: The name.
        places: Where each comes from.
    """

    def __init__(self, name: str, places: tuple[str, str]) -> None:
        self.name = name
        self.places = places
        super().__init__(
            f"family {name!r} is found twice, by {places[0]} and by {places[1]}; "
            "rename or remove one of them"
        )

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, str]]]:
        return type(self), (self.name, self.places)


@dataclass(frozen=True)
class Family:
    """A family that was found.

    Attributes:
        name: Such as "arlm".
        module: Dotted name that its classes are imported from.
        config_dir: Its Hydra configurations.
        found_by: Where it was found, in words.
    """

    name: str
    module: str
    config_dir: Path
    found_by: str


def discover_families() -> list[Family]:
    """Find all families, by name.

    Looked at are the entry points of the group `pellucid.families`, the packages that
    `XLM_MODELS_PACKAGES` names (parted by colons or commas), and `xlm_models.json` in the current
    directory and in those of `XLM_MODELS_PATH`, a mapping of names to package directories.

    Raises:
        ExternalModelConflictError: Two places offer one name.
        ArgumentError: A place is named that holds no family.
    """
    found: dict[str, Family] = {}
    for family in (*_installed(), *_named(), *_listed()):
        other = found.get(family.name)
        if other is None:
            found[family.name] = family
        elif other.config_dir != family.config_dir:
            raise ExternalModelConflictError(family.name, (other.found_by, family.found_by))
    return [found[name] for name in sorted(found)]


def broken_families() -> list[str]:
    """Say of each installed family that cannot be used why not; the others are not held up."""
    return [fault for _, fault in _try_installed() if fault is not None]


def _installed() -> Iterator[Family]:
    return (family for family, _ in _try_installed() if family is not None)


def _try_installed() -> Iterator[tuple[Family | None, str | None]]:
    for point in entry_points(group=GROUP):
        module = point.value.partition(":")[0]
        try:
            yield _of_module(point.name, module, f"entry point {point.name!r}"), None
        except ArgumentError as error:
            yield None, str(error)


def _named() -> Iterator[Family]:
    names = os.environ.get(PACKAGES_VARIABLE, "").replace(",", ":").split(":")
    for name in filter(None, (name.strip() for name in names)):
        yield _of_module(name.rpartition(".")[2], name, f"{PACKAGES_VARIABLE} ({name})")


def _of_module(name: str, module: str, found_by: str) -> Family:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    places = [] if spec is None else spec.submodule_search_locations or []
    for place in places:
        config_dir = Path(place) / "configs"
        if config_dir.is_dir():
            return Family(name, module, config_dir, found_by)
    lack = "cannot be imported" if spec is None else "has no directory configs/"
    raise ArgumentError(f"{found_by} names package {module!r}, which {lack}; correct it")


def _listed() -> Iterator[Family]:
    named = os.environ.get(PATH_VARIABLE, "").split(os.pathsep)
    extra = [Path(directory) for directory in named if directory]
    for directory in extra:
        if not directory.is_dir():
            message = f"{PATH_VARIABLE} names {str(directory)!r}, which is no directory; correct it"
            raise ArgumentError(message)
    for directory in dict.fromkeys(path.resolve() for path in (Path(), *extra)):
        table = directory / LIST_NAME
        if table.is_file():
            yield from _of_table(table)


def _of_table(table: Path) -> Iterator[Family]:
    try:
        entries = json.loads(table.read_text(encoding="utf-8"))
        pairs = [(str(name), str(path)) for name, path in entries.items()]
    except (ValueError, AttributeError) as error:
        message = f"{str(table)!r} must be a JSON object of names and package directories: {error}"
        raise ArgumentError(message) from error
    for name, path in pairs:
        package = (table.parent / path).resolve()
        if not (package / "configs").is_dir():
            message = f"{str(table)!r}: family {name!r} at {str(package)!r} has no configs/"
            raise ArgumentError(message)
        # The package is a directory of that name; what holds it must be importable.
        parent = str(package.parent)
        if parent not in sys.path:
            sys.path.append(parent)
        yield Family(name, package.name, package / "configs", f"{str(table)!r}")


__all__ = [
    "GROUP",
    "PACKAGES_VARIABLE",
    "PATH_VARIABLE",
    "ExternalModelConflictError",
    "Family",
    "broken_families",
    "discover_families",
]
