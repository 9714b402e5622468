"""Rules about files and names: what a package directory must hold, and what it must not."""

import re
from collections.abc import Iterator

from workspace.model import NAMESPACE, Violation, Workspace

_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
_VAGUE_MODULES = {"common", "helper", "helpers", "misc", "util", "utils"}
_TOOL_FILES = (
    ".coveragerc",
    ".importlinter",
    ".ruff.toml",
    "mypy.ini",
    "pyrightconfig.json",
    "pytest.ini",
    "ruff.toml",
    "setup.cfg",
    "tox.ini",
    "uv.toml",
)


def no_namespace_init(workspace: Workspace) -> Iterator[Violation]:
    """The namespace is shared by all distributions, so none of them may own it."""
    for package in workspace.packages:
        for path in sorted((package.root / "src" / NAMESPACE).glob("__init__.py*")):
            yield Violation(
                workspace.show(path),
                f"a package must not own the namespace {NAMESPACE!r}",
                "delete the file",
            )


def required_files(workspace: Workspace) -> Iterator[Violation]:
    """Every package can be read, licensed, typed and tested on its own."""
    for package in workspace.packages:
        module = f"src/{NAMESPACE}/{package.name}"
        required = (
            "README.md",
            "CHANGELOG.md",
            "LICENSE",
            f"{module}/__init__.py",
            f"{module}/py.typed",
        )
        for name in required:
            if not (package.root / name).is_file():
                yield Violation(workspace.show(package.root), f"{name} is missing", "add it")
        if not any(path.name.startswith("test_") for path in package.test_files()):
            yield Violation(
                workspace.show(package.root), "no tests/test_*.py", "add tests of its own"
            )


def names_agree(workspace: Workspace) -> Iterator[Violation]:
    """Directory, distribution, import name and built module are one name."""
    for package in workspace.packages:
        where = workspace.show(package.root / "pyproject.toml")
        backend = package.pyproject.get("tool", {}).get("uv", {}).get("build-backend", {})
        expected = {
            "project.name": (package.project.get("name"), package.distribution),
            "tool.uv.build-backend.module-name": (backend.get("module-name"), package.import_name),
        }
        for key, (found, wanted) in expected.items():
            if found != wanted:
                yield Violation(where, f"{key} is {found!r}", f"set it to {wanted!r}")
        strays = (package.root / "src" / NAMESPACE).glob("*/")
        for stray in sorted(path for path in strays if path.name != package.name):
            if any(stray.rglob("*.py")):
                yield Violation(
                    workspace.show(stray),
                    f"{package.distribution} ships a module that is not {package.import_name}",
                    "move it to a package of its own",
                )


def versions_are_plain(workspace: Workspace) -> Iterator[Violation]:
    """A version is X.Y.Z, and the changelog knows where its changes are written."""
    for package in workspace.packages:
        if not _VERSION.fullmatch(package.version):
            yield Violation(
                workspace.show(package.root / "pyproject.toml"),
                f"version is {package.version!r}",
                "write X.Y.Z",
            )
        changelog = package.root / "CHANGELOG.md"
        heading = re.compile(rf"^## \[?(Unreleased|{re.escape(package.version)})\b", re.MULTILINE)
        if changelog.is_file() and not heading.search(changelog.read_text(encoding="utf-8")):
            yield Violation(
                workspace.show(changelog),
                f"no section for what {package.version} changes",
                "add '## Unreleased'",
            )


def one_python_floor(workspace: Workspace) -> Iterator[Violation]:
    """The root's floor is every package's floor, and the oldest Python that is tried."""
    floor = workspace.pyproject.get("project", {}).get("requires-python", "")
    for package in workspace.packages:
        where = workspace.show(package.root / "pyproject.toml")
        found = package.project.get("requires-python")
        if found != floor:
            yield Violation(where, f"requires-python is {found!r}", f"write {floor!r}")
        oldest = f">={package.pythons[0]}" if package.pythons else None
        if oldest != floor:
            yield Violation(
                where,
                f"the oldest 'Programming Language :: Python :: 3.N' classifier gives {oldest!r}",
                f"list the Pythons that are tested, from {floor!r} on",
            )


def cache_keys_cover_sources(workspace: Workspace) -> Iterator[Violation]:
    """Without these keys a non-editable run tests a wheel from before the last edit."""
    wanted = {"pyproject.toml", "src/**/*"}
    for package in workspace.packages:
        entries = package.pyproject.get("tool", {}).get("uv", {}).get("cache-keys", [])
        missing = wanted - {entry.get("file") for entry in entries}
        if missing:
            yield Violation(
                workspace.show(package.root / "pyproject.toml"),
                f"tool.uv.cache-keys lacks {', '.join(sorted(missing))}",
                'write cache-keys = [{ file = "pyproject.toml" }, { file = "src/**/*" }]',
            )


def one_tool_configuration(workspace: Workspace) -> Iterator[Violation]:
    """Tools are configured in the root pyproject and nowhere else."""
    remedy = "move the setting to the root pyproject.toml"
    for package in workspace.packages:
        for tool in sorted(set(package.pyproject.get("tool", {})) - {"uv"}):
            where = workspace.show(package.root / "pyproject.toml")
            yield Violation(where, f"[tool.{tool}] configures a tool", remedy)
    for directory in (workspace.root, *(package.root for package in workspace.packages)):
        for name in _TOOL_FILES:
            if (directory / name).exists():
                yield Violation(workspace.show(directory / name), "configures a tool", remedy)


def modules_say_what_they_hold(workspace: Workspace) -> Iterator[Violation]:
    """A module that is named for nothing collects everything."""
    for package in workspace.packages:
        for path in package.source_files():
            if path.stem.strip("_") in _VAGUE_MODULES or path.parent.name in _VAGUE_MODULES:
                yield Violation(
                    workspace.show(path),
                    f"{path.stem!r} says nothing about its contents",
                    "name the idea that it holds",
                )
