"""What the pyproject files say, as frozen values."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

NAMESPACE = "pellucid"
"""The import namespace, and the prefix of every distribution name."""

Table = Mapping[str, Any]

_REQUIREMENT = re.compile(
    r"^\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^\]]*)\])?\s*(?P<bounds>[^;]*)"
)


class WorkspaceError(Exception):
    """The workspace cannot be read, or what was asked of it has no answer."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule in one place, with what to do about it."""

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One dependency as written: `name[extras] bounds`, the environment marker left out."""

    name: str
    extras: frozenset[str]
    bounds: str

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Read one entry of a dependency array.

        Raises:
            WorkspaceError: `text` does not start with a distribution name.
        """
        match = _REQUIREMENT.match(text)
        if match is None:
            message = f"{text!r} is not a requirement; write NAME[EXTRAS]BOUNDS"
            raise WorkspaceError(message)
        extras = (extra.strip() for extra in (match["extras"] or "").split(","))
        return cls(
            name=normalise(match["name"]),
            extras=frozenset(extra for extra in extras if extra),
            bounds=match["bounds"].replace(" ", ""),
        )

    @property
    def sibling(self) -> str | None:
        """Directory name of the workspace package that this requires, or None."""
        prefix = f"{NAMESPACE}-"
        return self.name.removeprefix(prefix) if self.name.startswith(prefix) else None


@dataclass(frozen=True)
class Package:
    """One directory under `packages/` and its pyproject."""

    root: Path
    pyproject: Table

    @property
    def name(self) -> str:
        """Name of the directory, from which all other names follow."""
        return self.root.name

    @property
    def distribution(self) -> str:
        """Name under which the package is published."""
        return f"{NAMESPACE}-{self.name}"

    @property
    def import_name(self) -> str:
        """Dotted name under which the package is imported."""
        return f"{NAMESPACE}.{self.name}"

    @property
    def source(self) -> Path:
        """Directory of the package's modules."""
        return self.root / "src" / NAMESPACE / self.name

    @property
    def project(self) -> Table:
        """The `[project]` table."""
        return self.pyproject.get("project", {})

    @property
    def version(self) -> str:
        """The declared version, or an empty string."""
        return str(self.project.get("version", ""))

    @cached_property
    def dependencies(self) -> tuple[Requirement, ...]:
        """What every installation brings."""
        return parse_all(self.project.get("dependencies", []))

    @cached_property
    def extras(self) -> Mapping[str, tuple[Requirement, ...]]:
        """What each extra adds."""
        table: Table = self.project.get("optional-dependencies", {})
        return {name: parse_all(entries) for name, entries in table.items()}

    @cached_property
    def test_group(self) -> tuple[Requirement, ...]:
        """What the package's own tests need besides the package."""
        groups: Table = self.pyproject.get("dependency-groups", {})
        return parse_all(groups.get("test", []))

    @property
    def runtime(self) -> tuple[Requirement, ...]:
        """Dependencies and the contents of all extras."""
        return self.dependencies + sum(self.extras.values(), ())

    @cached_property
    def pythons(self) -> tuple[str, ...]:
        """Supported Python versions, oldest first, as the classifiers name them."""
        found = (
            re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier)
            for classifier in self.project.get("classifiers", [])
        )
        return tuple(sorted((match[1] for match in found if match), key=release))

    def source_files(self) -> list[Path]:
        """Every Python file that the package ships, in a stable order."""
        return sorted(self.source.rglob("*.py"))

    def test_files(self) -> list[Path]:
        """Every Python file under the package's `tests/`, in a stable order."""
        return sorted((self.root / "tests").rglob("*.py"))


@dataclass(frozen=True)
class Workspace:
    """The root pyproject and every package under it."""

    root: Path
    pyproject: Table
    packages: tuple[Package, ...]

    @classmethod
    def load(cls, root: Path) -> "Workspace":
        """Read the workspace at `root`.

        Raises:
            WorkspaceError: A pyproject is missing or is not TOML.
        """
        packages = tuple(
            Package(root=directory, pyproject=read_toml(directory / "pyproject.toml"))
            for directory in sorted((root / "packages").glob("*"))
            if directory.is_dir() and not directory.name.startswith(".")
        )
        return cls(root=root, pyproject=read_toml(root / "pyproject.toml"), packages=packages)

    @cached_property
    def by_name(self) -> Mapping[str, Package]:
        """Packages by directory name."""
        return {package.name: package for package in self.packages}

    @cached_property
    def installed(self) -> tuple[Requirement, ...]:
        """What `uv sync` at the root installs: the root's dependencies and its dev group."""
        groups: Mapping[str, list[Any]] = self.pyproject.get("dependency-groups", {})
        dependencies: list[Any] = self.pyproject.get("project", {}).get("dependencies", [])
        return parse_all([*dependencies, *_flatten(groups, "dev")])

    @property
    def tools(self) -> Table:
        """The `[tool]` tables of the root."""
        return self.pyproject.get("tool", {})

    @cached_property
    def may_import(self) -> Mapping[str, frozenset[str]]:
        """Package to the packages that it may import; `"*"` in the table stands for all others."""
        table: Mapping[str, list[str]] = self.tools.get(NAMESPACE, {}).get("may-import", {})
        return {
            name: frozenset(table) - {name} if allowed == ["*"] else frozenset(allowed)
            for name, allowed in table.items()
        }

    def python_files(self) -> Iterator[Path]:
        """Every Python file that people write here: sources, tests and tools."""
        for package in self.packages:
            yield from package.source_files()
            yield from package.test_files()
        for directory in ("tests", "tools"):
            yield from sorted((self.root / directory).rglob("*.py"))

    def show(self, path: Path) -> str:
        """Return `path` as it is written relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()


def read_toml(path: Path) -> Table:
    """Parse one TOML file.

    Raises:
        WorkspaceError: The file is missing, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkspaceError(f"{path} is missing; every package needs one") from error
    except tomllib.TOMLDecodeError as error:
        raise WorkspaceError(f"{path} is not TOML: {error}") from error


def _flatten(groups: Mapping[str, list[Any]], name: str) -> Iterator[Any]:
    for entry in groups.get(name, []):
        if isinstance(entry, str):
            yield entry
        else:
            yield from _flatten(groups, entry["include-group"])


def normalise(distribution: str) -> str:
    """Return a distribution name in the one spelling that indexes compare by."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def parse_all(entries: list[Any]) -> tuple[Requirement, ...]:
    """Parse a dependency array; `{ include-group = ... }` entries are left out."""
    return tuple(Requirement.parse(entry) for entry in entries if isinstance(entry, str))


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `"0.12.0rc1"` gives `(0, 12, 0)`."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
