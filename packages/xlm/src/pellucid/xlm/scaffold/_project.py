"""What is to be written: a family's package, and what belongs around it."""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError
from pellucid.xlm._discovery import LIST_NAME
from pellucid.xlm.scaffold._copying import (
    STARTER,
    Source,
    copy_family,
    describe_options,
    describe_parts,
)
from pellucid.xlm.scaffold._naming import FamilyName

_TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".in"
_ENTRY_POINTS = '[project.entry-points."pellucid.families"]\n'
_HOME = "packages/families"
FAMILIES = "pellucid.families"
FAMILIES_DIR = f"{_HOME}/src/pellucid/families"


@dataclass(frozen=True)
class Plan:
    """What a scaffold writes.

    Attributes:
        root: The directory that everything is in.
        files: The text of each new file, by its path in there.
        edits: Likewise, of files that may be there already and keep what else they hold.
        experiment: What can be trained then.
        package: Where the family's package is, in there.
        tests: The test files, in there.
    """

    root: Path
    files: Mapping[str, str]
    edits: Mapping[str, str]
    experiment: str
    package: str
    tests: tuple[str, ...]


def plan_project(new: FamilyName, source: Source, root: Path) -> Plan:
    """Plan a project of its own: package, tests, page, README, pyproject, `xlm_models.json`.

    Args:
        new: What the family is called.
        source: What it is copied from.
        root: The project's directory.

    Raises:
        ArgumentError: `xlm_models.json` is there and is none, or lists another family of that name.
    """
    package = copy_family(source, new)
    values = values_of(new, source, package)
    files = {f"{new.name}/{path}": text for path, text in package.items()}
    for path in ("pyproject.toml", "README.md", "docs/NAME.md", *templates_of_tests(source)):
        files[path.replace("NAME", new.name)] = render(path, values)
    return Plan(
        root=root,
        files=files,
        edits={LIST_NAME: _listed(root / LIST_NAME, new.name)},
        experiment=values["experiment"],
        package=new.name,
        tests=tuple(sorted(path for path in files if path.startswith("tests/"))),
    )


def plan_checkout(new: FamilyName, source: Source, root: Path) -> Plan:
    """Plan a family of `pellucid.families` in a checkout of Pellucid, with its entry point.

    Args:
        new: What the family is called.
        source: What it is copied from.
        root: Of the checkout.

    Raises:
        ArgumentError: The directory is no checkout.
    """
    pyproject = root / _HOME / "pyproject.toml"
    held = pyproject.read_text(encoding="utf-8") if pyproject.is_file() else ""
    if _ENTRY_POINTS not in held:
        raise ArgumentError(
            f"{str(root)!r} is no checkout of Pellucid: {_HOME}/pyproject.toml with entry points "
            f"of {FAMILIES} is missing; give its root with --output-dir, or leave --in-tree out"
        )
    package = copy_family(source, new)
    values = values_of(new, source, package)
    where = f"{FAMILIES_DIR}/{new.name}"
    # The distribution is marked as typed at its root.
    files = {f"{where}/{path}": text for path, text in package.items() if path != "py.typed"}
    for path in templates_of_tests(source):
        files[f"{_HOME}/{path}".replace("NAME", new.name)] = render(path, values)
    files[f"docs/families/{new.name}.md"] = render("docs/NAME.md", values)
    return Plan(
        root=root,
        files=files,
        edits={f"{_HOME}/pyproject.toml": _with_entry_point(held, new)},
        experiment=values["experiment"],
        package=where,
        tests=tuple(sorted(path for path in files if path.startswith(f"{_HOME}/tests/"))),
    )


def values_of(new: FamilyName, source: Source, package: Mapping[str, str]) -> dict[str, str]:
    about = (ast.get_docstring(ast.parse(package.get("__init__.py", ""))) or "").partition("\n")[0]
    return {
        "name": new.name,
        "stem": new.stem,
        "distribution": new.name.replace("_", "-"),
        "experiment": source.names.rename(source.experiment, new),
        "drawing": ", ".join(json.dumps(override) for override in source.drawing),
        "overfit_steps": "150" if source.names.name == STARTER else "600",
        "origin": source.origin,
        "about": f"{about} {source.origin}".strip(),
        "parts": describe_parts(package),
        "options": describe_options(package),
        "core_bounds": _bounds("pellucid-core"),
        "xlm_bounds": _bounds("pellucid-xlm"),
    }


def _bounds(distribution: str) -> str:
    major, minor, *_ = version(distribution).split(".")
    return f">={major}.{minor},<{major}.{int(minor) + 1}"


def templates_of_tests(source: Source) -> list[str]:
    parts = ["loss", "collator", "predictor", "family"]
    if source.is_read_by_ids_and_mask:
        parts.insert(0, "model")
    return [f"tests/test_{part}_NAME.py" for part in parts]


def render(path: str, values: Mapping[str, str]) -> str:
    text = (_TEMPLATES / f"{path}{_SUFFIX}").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)


def _listed(table: Path, name: str) -> str:
    """Return the list of families with one more."""
    entries: Any = {}
    if table.is_file():
        try:
            entries = json.loads(table.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ArgumentError(f"{str(table)!r} is no JSON: {error}; correct it") from error
    if not isinstance(entries, dict):
        raise ArgumentError(f"{str(table)!r} is no JSON object of names and paths; correct it")
    held = {**entries}
    if held.get(name, name) != name:
        raise ArgumentError(
            f"{str(table)!r} lists a family {name!r} at {held[name]!r}; choose another name, or "
            "remove it there"
        )
    return json.dumps({**held, name: name}, indent=2) + "\n"


def _with_entry_point(text: str, new: FamilyName) -> str:
    line = f'{new.name} = "{new.module}"\n'
    if line in text:
        return text
    start = text.index(_ENTRY_POINTS) + len(_ENTRY_POINTS)
    length = re.match(r"(?:[\w-]+ = .*\n)*", text[start:])
    end = start + (0 if length is None else length.end())
    lines = sorted([*text[start:end].splitlines(keepends=True), line])
    return text[:start] + "".join(lines) + text[end:]


__all__ = [
    "FAMILIES",
    "FAMILIES_DIR",
    "Plan",
    "plan_checkout",
    "plan_project",
    "render",
    "templates_of_tests",
    "values_of",
]
