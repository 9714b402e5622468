"""How a family is called in files, in classes and in imports."""

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pellucid.core import ArgumentError
from pellucid.xlm._discovery import discover_families

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class FamilyName:
    """The names of one family.

    Attributes:
        name: In files and configurations, such as "my_family".
        stem: In classes, such as "MyFamily".
        module: Of the package, such as "pellucid.families.my_family".
    """

    name: str
    stem: str
    module: str

    @classmethod
    def of_new(cls, name: str, *, directory: Path, parent: str | None = None) -> "FamilyName":
        """Return the names of a family that is to be written.

        Args:
            name: Lower-case letters, digits and single underscores, a letter first.
            directory: Of its package.
            parent: The package that holds its package; none if None.

        Raises:
            ArgumentError: The name is none, or it is that of another module, or of another family.
        """
        if not _NAME.fullmatch(name) or keyword.iskeyword(name):
            raise ArgumentError(
                f"{name!r} is no name for a family; use lower-case letters, digits and single "
                "underscores, a letter first, such as my_family"
            )
        other = None if parent is not None else _module_of(name)
        if other is not None and other != directory.resolve():
            raise ArgumentError(
                f"there is a module {name!r} already ({str(other)!r}), and Python takes one for "
                "the other; choose another name, or uninstall it"
            )
        for family in discover_families():
            if family.name == name and family.config_dir.parent.resolve() != directory.resolve():
                raise ArgumentError(
                    f"there is a family {name!r} already, found {family.place}; choose another name"
                )
        stem = "".join(part[0].upper() + part[1:] for part in name.split("_"))
        return cls(name, stem, name if parent is None else f"{parent}.{name}")

    def rename(self, text: str, new: "FamilyName") -> str:
        """Return a text about this family as one about another.

        The name is replaced where it is a part of an identifier, as in `print_batch_mlm`, and the
        stem where it is a part of a class's name, as in `MLMLoss`.
        """
        # A package at the top is called like the family; it is meant where a module of it follows.
        end = r"(?!\w)" if "." in self.module else r"(?=\.\w)"
        pattern = "|".join(
            (
                rf"(?P<module>(?<![\w.]){re.escape(self.module)}{end})",
                rf"(?P<stem>(?<![A-Z]){re.escape(self.stem)}(?![a-z]))",
                rf"(?P<name>(?<![A-Za-z]){re.escape(self.name)}(?![A-Za-z]))",
            )
        )
        return re.sub(pattern, lambda match: getattr(new, str(match.lastgroup)), text)


def _module_of(name: str) -> Path | None:
    """Return where a module is that can be imported from anywhere but the current directory."""
    if name in sys.stdlib_module_names:
        return Path(sys.prefix)
    own, sys.path[:] = list(sys.path), [place for place in sys.path if place not in ("", ".")]
    try:
        spec = importlib.util.find_spec(name)
    finally:
        sys.path[:] = own
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""]
    return Path(places[0]).resolve()


__all__ = ["FamilyName"]
