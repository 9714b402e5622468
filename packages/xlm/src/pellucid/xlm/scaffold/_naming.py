"""How a family is called in files, in classes and in imports."""

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from pellucid.core import ArgumentError

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
    def of_new(cls, name: str, *, parent: str | None = None) -> "FamilyName":
        """Return the names of a family that is not there yet.

        Args:
            name: Lower-case letters, digits and single underscores, a letter first.
            parent: The package that holds its package; none if None.

        Raises:
            ArgumentError: The name is none, or a module of that name exists.
        """
        if not _NAME.fullmatch(name) or keyword.iskeyword(name):
            raise ArgumentError(
                f"{name!r} is no name for a family; use lower-case letters, digits and single "
                "underscores, a letter first, such as my_family"
            )
        if parent is None and (name in sys.stdlib_module_names or _is_installed(name)):
            raise ArgumentError(
                f"there is a module {name!r} already, which a family of that name would hide; "
                "choose another name, or uninstall it"
            )
        stem = "".join(part[0].upper() + part[1:] for part in name.split("_"))
        return cls(name, stem, name if parent is None else f"{parent}.{name}")

    def rename(self, text: str, new: "FamilyName") -> str:
        """Return a text about this family as one about another.

        The name is replaced where it is a part of an identifier, as in `print_batch_mlm`, and the
        stem where it is a part of a class's name, as in `MLMLoss`.
        """
        pattern = "|".join(
            (
                rf"(?P<module>(?<![\w.]){re.escape(self.module)}(?!\w))",
                rf"(?P<stem>(?<![A-Z]){re.escape(self.stem)}(?![a-z]))",
                rf"(?P<name>(?<![A-Za-z]){re.escape(self.name)}(?![A-Za-z]))",
            )
        )
        return re.sub(pattern, lambda match: getattr(new, str(match.lastgroup)), text)


def _is_installed(name: str) -> bool:
    """Say whether a module of a name can be imported from anywhere but the current directory."""
    own, sys.path[:] = list(sys.path), [place for place in sys.path if place not in ("", ".")]
    try:
        return importlib.util.find_spec(name) is not None
    finally:
        sys.path[:] = own


__all__ = ["FamilyName"]
