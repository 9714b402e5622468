"""Where families come from: installed packages, and directories that a user names.

Nothing here imports torch, or a family: only where its modules and configurations lie is asked.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError

GROUP = "pellucid.families"
PATH_VARIABLE = "XLM_MODELS_PATH"
PACKAGES_VARIABLE = "XLM_MODELS_PACKAGES"
LIST_NAME = "xlm_models.json"

_RENAME = "rename or remove one of them"
_REINSTALL = (
    "they hold different files: pip install the one that is meant again (with -e, what is edited "
    "counts at once), or remove the other"
)


class ExternalModelConflictError(ArgumentError):
    """Two places offer a family of one name.

    Attributes:
        name: The name.
        places: Where each comes from.
        remedy: What to do about it.
    """

    def __init__(self, name: str, places: tuple[str, str], remedy: str = _RENAME) -> None:
        self.name = name
        self.places = places
        self.remedy = remedy
        super().__init__(f"family {name!r} is found twice, {places[0]} and {places[1]}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, str], str]]:
        return type(self), (self.name, self.places, self.remedy)


@dataclass(frozen=True)
class Family:
    """A family that was found.

    Attributes:
        name: Such as "arlm".
        module: Dotted name that its classes are imported from.
        config_dir: Its Hydra configurations.
        found_by: Where it was found, in words.
        copy_found_by: Where else the same package was found, file by file, in words; or None.
    """

    name: str
    module: str
    config_dir: Path
    found_by: str
    copy_found_by: str | None = None

    @property
    def place(self) -> str:
        """Where it was found, and where it lies."""
        return f"by {self.found_by} in {str(self.config_dir.parent)!r}"


def discover_families() -> list[Family]:
    """Find all families, by name.

    Looked at are the entry points of the group `pellucid.families`, the packages that
    `XLM_MODELS_PACKAGES` names (parted by colons or commas), and `xlm_models.json` in the current
    directory and in those of `XLM_MODELS_PATH`, a mapping of names to package directories.

    A project that was installed, and whose directory is listed too, is one family as long as both
    hold the same files.

    Raises:
        ExternalModelConflictError: Two places offer one name.
        ArgumentError: A place is named that holds no family, or one that cannot be imported.
    """
    found: dict[str, Family] = {}
    for family in (*_installed(), *_named(), *_listed()):
        other = found.get(family.name)
        found[family.name] = family if other is None else _merge(other, family)
    for family in found.values():
        _check_importable(family)
    return [found[name] for name in sorted(found)]


def _merge(first: Family, second: Family) -> Family:
    """Return what two finds of one name are, if that is one family."""
    if first.config_dir.resolve() == second.config_dir.resolve():
        return first
    if first.module != second.module:
        raise ExternalModelConflictError(first.name, (first.place, second.place))
    if _files(first) != _files(second):
        raise ExternalModelConflictError(first.name, (first.place, second.place), _REINSTALL)
    return replace(first, copy_found_by=second.found_by)


def _files(family: Family) -> dict[str, bytes]:
    package = family.config_dir.parent
    return {
        path.relative_to(package).as_posix(): path.read_bytes()
        for path in package.rglob("*")
        if path.suffix in (".py", ".yaml")
    }


def _check_importable(family: Family) -> None:
    """Refuse a family whose name leads Python to another module than the one that was found."""
    package = family.config_dir.parent
    places = [Path(place).resolve() for place in _places(family.module)]
    if package.resolve() not in places:
        shown = repr(str(places[0])) if places else "a module that is no package"
        raise ArgumentError(
            f"family {family.name!r}, found {family.place}, cannot be imported: "
            f"{family.module!r} is {shown}; rename the family's package"
        )


def broken_families() -> list[str]:
    """Say of each installed family that cannot be used why not; the others are not held up."""
    return [fault for _, fault in _try_installed() if fault is not None]


def _installed() -> Iterator[Family]:
    return (family for family, _ in _try_installed() if family is not None)


def _try_installed() -> Iterator[tuple[Family | None, str | None]]:
    for point in entry_points(group=GROUP):
        module = point.value.partition(":")[0]
        try:
            yield _of_module(point.name, module, _describe(point)), None
        except ArgumentError as error:
            yield None, str(error)


def _describe(point: Any) -> str:
    distribution = getattr(point, "dist", None)
    suffix = "" if distribution is None else f" of {distribution.name} {distribution.version}"
    return f"entry point {point.name!r}{suffix}"


def _named() -> Iterator[Family]:
    names = os.environ.get(PACKAGES_VARIABLE, "").replace(",", ":").split(":")
    for name in filter(None, (name.strip() for name in names)):
        yield _of_module(name.rpartition(".")[2], name, f"{PACKAGES_VARIABLE} ({name})")


def _of_module(name: str, module: str, found_by: str) -> Family:
    places = _places(module)
    for place in places:
        config_dir = Path(place) / "configs"
        if config_dir.is_dir():
            return Family(name, module, config_dir, found_by)
    lack = "has no directory configs/" if places else "cannot be imported"
    raise ArgumentError(f"{found_by} names package {module!r}, which {lack}; correct it")


def _places(module: str) -> list[str]:
    """Return the directories of a package; none if there is no package of that name."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return []
    return [] if spec is None else list(spec.submodule_search_locations or [])


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


@dataclass(frozen=True)
class _Pairs:
    """A JSON object, of which no key hides another."""

    pairs: list[tuple[str, object]]


def _of_table(table: Path) -> Iterator[Family]:
    try:
        entries = json.loads(table.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
        pairs = [(str(name), str(path)) for name, path in entries.pairs]
    except (ValueError, AttributeError) as error:
        message = f"{str(table)!r} must be a JSON object of names and package directories: {error}"
        raise ArgumentError(message) from error
    for name, path in pairs:
        others = [other for key, other in pairs if key == name and other != path]
        if others:
            places = (f"as {path!r}", f"as {others[0]!r}, both by {str(table)!r}")
            raise ExternalModelConflictError(name, places)
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
