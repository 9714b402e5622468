"""A family's modules and configurations under another name."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._discovery import discover_families
from pellucid.xlm.scaffold._naming import FamilyName

STARTER = "starter"
_KINDS = (".py", ".yaml", ".typed")
_LOSS = re.compile(r"^class (\w+?)Loss\w*\(", re.MULTILINE)
_PREFERRED = ("star_easy_", "star_mini_")
# What makes the predictor of a family draw, where that is more than a temperature.
_DRAWING = {
    "arlm": ("predictor.sampling_method=sample",),
    "ilm": ("predictor.temperature=1.0", "predictor.stopping_threshold=null"),
}


@dataclass(frozen=True)
class Source:
    """The family that is copied.

    Attributes:
        names: What it is called.
        directory: Of its package.
    """

    names: FamilyName
    directory: Path

    @property
    def experiment(self) -> str:
        """The experiment that tests and examples are about.

        Raises:
            ArgumentError: The family has none.
        """
        found = sorted(path.stem for path in self.directory.glob("configs/experiment/*.yaml"))
        if not found:
            raise ArgumentError(f"family {self.names.name!r} has no experiment; copy another")
        wanted = [f"{start}{self.names.name}" for start in _PREFERRED]
        return next((name for name in wanted if name in found), found[0])

    @property
    def is_read_by_ids_and_mask(self) -> bool:
        """Whether its model is called with token ids and a mask alone, as a test of it is."""
        return self.names.name in (STARTER, "arlm", "mlm")

    @property
    def drawing(self) -> tuple[str, ...]:
        """The overrides by which its predictor draws, rather than take what is best."""
        return _DRAWING.get(self.names.name, ("predictor.temperature=1.0",))

    @property
    def origin(self) -> str:
        """Where the code comes from, in a sentence."""
        package = self.names.module.split(".")
        distribution = "-".join(package[:2]) if package[0] == "pellucid" else package[0]
        try:
            known = f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            known = distribution
        return f"Its code began as a copy of {self.names.name} of {known}."


def find_source(name: str) -> Source:
    """Return the family of a name: "starter", or any that was found.

    Raises:
        UnknownNameError: There is none of that name.
        ArgumentError: Its classes cannot be told from their names.
    """
    if name == STARTER:
        directory = Path(__file__).parent.parent / STARTER
        return Source(FamilyName(STARTER, "Starter", f"pellucid.xlm.{STARTER}"), directory)
    families = {family.name: family for family in discover_families()}
    if name not in families:
        raise UnknownNameError("family to start from", name, [STARTER, *families])
    family = families[name]
    directory = family.config_dir.parent
    loss = directory / f"loss_{name}.py"
    match = _LOSS.search(loss.read_text(encoding="utf-8")) if loss.is_file() else None
    if match is None:
        raise ArgumentError(
            f"family {name!r} has no loss_{name}.py with a class NAMELoss, which a new "
            "family trains and its other names follow from; start from another family"
        )
    return Source(FamilyName(name, match[1], family.module), directory)


def copy_family(source: Source, new: FamilyName) -> dict[str, str]:
    """Return the text of every file of a family's package under another name, by its path."""
    found = {
        source.names.rename(path.as_posix(), new): source.names.rename(text, new)
        for path, text in _files(source.directory)
    }
    return {"py.typed": "", **found}


def describe_parts(files: Mapping[str, str]) -> str:
    """Return a table of the public classes of a family's package: what each is, in a line."""
    rows = ["| class | module | |", "|---|---|---|"]
    for path, text in sorted(files.items()):
        if not path.endswith(".py") or Path(path).stem.startswith("_"):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                rows.append(f"| `{node.name}` | `{Path(path).stem}` | {line} |")
    return "\n".join(rows)


def describe_options(files: Mapping[str, str]) -> str:
    """Return a table of a family's configurations."""
    groups: dict[str, list[str]] = {}
    for path in sorted(files):
        where = Path(path)
        if where.suffix == ".yaml" and where.parts[0] == "configs":
            groups.setdefault(where.parent.name, []).append(f"`{where.stem}`")
    rows = [f"| `{group}` | {', '.join(options)} |" for group, options in groups.items()]
    return "\n".join(["| group | options |", "|---|---|", *rows])


def _files(directory: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix in _KINDS and "__pycache__" not in path.parts:
            yield path.relative_to(directory), path.read_text(encoding="utf-8")


__all__ = ["STARTER", "Source", "copy_family", "describe_options", "describe_parts", "find_source"]
