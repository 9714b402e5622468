"""Rules about what packages and the root declare: bounds, entry points, membership, layers."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from workspace.graph import layers
from workspace.model import (
    NAMESPACE,
    Package,
    Requirement,
    Violation,
    Workspace,
    WorkspaceError,
    normalise,
    parse_all,
    release,
)
from workspace.source import parse, top_level_names

_SIBLING_BOUNDS = re.compile(r">=(?P<floor>\d+(?:\.\d+)+),<(?P<cap>\d+(?:\.\d+)*)")


def sibling_bounds_are_true(workspace: Workspace) -> Iterator[Violation]:
    """Bounds on siblings are written out and hold: the resolver ignores them inside a workspace."""
    for package in workspace.packages:
        where = workspace.show(package.root / "pyproject.toml")
        for requirement in package.runtime:
            if requirement.sibling is None or requirement.sibling == package.name:
                continue
            sibling = workspace.by_name.get(requirement.sibling)
            if sibling is None:
                yield Violation(
                    where, f"requires {requirement.name}, which is not here", "correct the name"
                )
            elif not _bounds_hold(requirement.bounds, sibling.version):
                yield Violation(
                    where,
                    f"requires {requirement.name}{requirement.bounds or ' without bounds'}",
                    f"write {requirement.name}{bounds_on(sibling.version)}",
                )


def _bounds_hold(bounds: str, version: str) -> bool:
    match = _SIBLING_BOUNDS.fullmatch(bounds)
    if match is None:
        return False
    floor, cap = release(match["floor"]), release(match["cap"])
    return floor <= release(version) < cap and cap == _next_breaking(version)


def _next_breaking(version: str) -> tuple[int, ...]:
    major, minor, *_ = (*release(version), 0, 0)
    return (major, minor + 1) if major == 0 else (major + 1,)


def bounds_on(version: str) -> str:
    """Return the bounds that a sibling of this version is required with."""
    floor = ".".join(str(part) for part in release(version)[:2])
    cap = ".".join(str(part) for part in _next_breaking(version))
    return f">={floor},<{cap}"


def entry_points_exist(workspace: Workspace) -> Iterator[Violation]:
    """What a package registers is there: a dead entry point fails only at a user's desk."""
    for package in workspace.packages:
        where = workspace.show(package.root / "pyproject.toml")
        for group, name, target in _entry_points(package):
            module, _, attribute = target.partition(":")
            path = _module_file(package, module)
            if path is None:
                yield Violation(
                    where,
                    f"entry point {name!r} of {group} names {module}, which is not in this package",
                    "correct it, or remove the entry",
                )
            elif attribute and not _defines(package, path, attribute.split(".")[0]):
                yield Violation(
                    where,
                    f"entry point {name!r} of {group} names {attribute}, which {module} lacks",
                    "correct it, or remove the entry",
                )


def _entry_points(package: Package) -> Iterator[tuple[str, str, str]]:
    tables: Mapping[str, Mapping[str, str]] = {
        "scripts": package.project.get("scripts", {}),
        **package.project.get("entry-points", {}),
    }
    for group, entries in tables.items():
        for name, target in entries.items():
            yield group, name, target


def _module_file(package: Package, module: str) -> Path | None:
    if module != package.import_name and not module.startswith(f"{package.import_name}."):
        return None
    base = package.root / "src" / Path(*module.split("."))
    candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((path for path in candidates if path.is_file()), None)


def _defines(package: Package, path: Path, attribute: str) -> bool:
    """Follow `from pellucid.NAME... import attribute` inside the package to a definition."""
    tree = parse(path)
    names = top_level_names(tree)
    if attribute not in names:
        return "__getattr__" in names and f'"{attribute}"' in path.read_text(encoding="utf-8")
    for node in tree.body:
        imported = getattr(node, "names", [])
        if attribute in {alias.asname or alias.name for alias in imported}:
            source = _module_file(package, getattr(node, "module", None) or "")
            original = next(a.name for a in imported if (a.asname or a.name) == attribute)
            return source is None or source == path or _defines(package, source, original)
    return True


def root_depends_on_every_package(workspace: Workspace) -> Iterator[Violation]:
    """From the root, every package is installed, from this tree, and watched by the linter."""
    project = workspace.pyproject.get("project", {})
    sources = workspace.tools.get("uv", {}).get("sources", {})
    listed = {
        "project.dependencies": {
            requirement.name for requirement in parse_all(project.get("dependencies", []))
        },
        "tool.uv.sources": {
            normalise(name) for name, source in sources.items() if source.get("workspace")
        },
    }
    roots = set(workspace.tools.get("importlinter", {}).get("root_packages", []))
    for package in workspace.packages:
        for key, names in listed.items():
            if package.distribution not in names:
                yield Violation(
                    "pyproject.toml", f"{key} lacks {package.distribution}", "add it there"
                )
        if package.import_name not in roots:
            yield Violation(
                "pyproject.toml",
                f"tool.importlinter.root_packages lacks {package.import_name}",
                "add it there",
            )


def root_installs_what_tests_need(workspace: Workspace) -> Iterator[Violation]:
    """A test group's needs are in the root's environment too: there its tests would be skipped."""
    for package in workspace.packages:
        for need in package.test_group:
            if not any(_covers(held, need) for held in workspace.installed):
                extras = f"[{','.join(sorted(need.extras))}]" if need.extras else ""
                yield Violation(
                    workspace.show(package.root / "pyproject.toml"),
                    f"its tests need {need.name}{extras}, which the root does not install",
                    "add it to the root's dependency group tests",
                )


def _covers(held: Requirement, need: Requirement) -> bool:
    return held.name == need.name and held.extras >= need.extras


def changelog_index_is_complete(workspace: Workspace) -> Iterator[Violation]:
    """The root changelog leads to the changelog of every package."""
    path = workspace.root / "CHANGELOG.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for package in workspace.packages:
        link = f"packages/{package.name}/CHANGELOG.md"
        if f"]({link})" not in text:
            yield Violation("CHANGELOG.md", f"no link to {link}", "add a line to the index")


def directions_are_declared(workspace: Workspace) -> Iterator[Violation]:
    """The table of directions has a row per package, and the import linter enforces it."""
    where = "pyproject.toml"
    rows = set(workspace.may_import)
    for name in sorted(set(workspace.by_name) ^ rows):
        verb = "lacks a row for" if name not in rows else "has a row for the unknown package"
        yield Violation(where, f"[tool.{NAMESPACE}.may-import] {verb} {name!r}", "correct it")
    for name, allowed in sorted(workspace.may_import.items()):
        for unknown in sorted(allowed - rows):
            yield Violation(
                where,
                f"[tool.{NAMESPACE}.may-import] lets {name} import the unknown {unknown!r}",
                f"there are {', '.join(sorted(rows))}",
            )
    try:
        wanted = layers(workspace.may_import)
    except WorkspaceError as error:
        yield Violation(where, str(error), "arrows point down: remove one of them")
        return
    contracts = workspace.tools.get("importlinter", {}).get("contracts", [])
    found = [c.get("layers") for c in contracts if c.get("type") == "layers"]
    expected = [" | ".join(f"{NAMESPACE}.{name}" for name in layer) for layer in wanted]
    if found != [expected]:
        yield Violation(
            where,
            "the import linter's layers are not those of the table of directions",
            f"write layers = {expected}",
        )


def declared_siblings_are_allowed(workspace: Workspace) -> Iterator[Violation]:
    """What a package requires at run time lies below it."""
    for package in workspace.packages:
        allowed = workspace.may_import.get(package.name, frozenset())
        for requirement in package.runtime:
            if _is_forbidden(requirement, package, allowed):
                yield Violation(
                    workspace.show(package.root / "pyproject.toml"),
                    f"{package.name} may not depend on {requirement.sibling}",
                    f"it may depend on: {', '.join(sorted(allowed)) or 'no other package'}",
                )


def _is_forbidden(requirement: Requirement, package: Package, allowed: frozenset[str]) -> bool:
    sibling = requirement.sibling
    return sibling is not None and sibling != package.name and sibling not in allowed
