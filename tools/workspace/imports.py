"""Rules about imports: what is imported is declared, and lies below."""

import sys
from collections.abc import Iterator
from pathlib import Path

from workspace.model import (
    NAMESPACE,
    Package,
    Requirement,
    Violation,
    Workspace,
    normalise,
)
from workspace.source import imported_modules

DISTRIBUTION_OF = {
    "PIL": "pillow",
    "attr": "attrs",
    "dateutil": "python-dateutil",
    "fla": "flash-linear-attention",
    "google.genai": "google-genai",
    "google.protobuf": "protobuf",
    "hydra": "hydra-core",
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
"""Import name to distribution, where the two differ by more than dashes."""


def imports_are_declared(workspace: Workspace) -> Iterator[Violation]:
    """A package declares whatever its modules import, also inside functions."""
    for package in workspace.packages:
        # What is missing is reported where it is imported first, and then taken for declared.
        declared = {requirement.name for requirement in package.runtime} | {package.distribution}
        for path in package.source_files():
            module = _module_name(package, path)
            for line, name in imported_modules(path, module):
                distribution = _distribution(name)
                if distribution and distribution not in declared:
                    declared.add(distribution)
                    yield Violation(
                        f"{workspace.show(path)}:{line}",
                        f"imports {name}, but {package.distribution} does not declare it",
                        f"add {distribution} to the dependencies of packages/{package.name}",
                    )


def needs_of_tests_are_declared(workspace: Workspace) -> Iterator[Violation]:
    """Tests import what the package or its test group brings, directly or through siblings."""
    for package in workspace.packages:
        available = _installed_for_tests(workspace, package)
        for path in package.test_files():
            local = {entry.stem for entry in path.parent.iterdir()}
            for line, name in imported_modules(path, path.stem):
                distribution = _distribution(name)
                if not distribution or name.split(".")[0] in local:
                    continue
                if distribution not in available:
                    available.add(distribution)
                    yield Violation(
                        f"{workspace.show(path)}:{line}",
                        f"imports {name}, which an isolated test environment lacks",
                        f"add {distribution} to the test group of packages/{package.name}",
                    )


def imports_point_down(workspace: Workspace) -> Iterator[Violation]:
    """A module imports only the packages that its own may import."""
    for package in workspace.packages:
        allowed = workspace.may_import.get(package.name, frozenset()) | {package.name}
        for path in package.source_files():
            for line, name in imported_modules(path, _module_name(package, path)):
                sibling = _sibling(name)
                if sibling is not None and sibling not in allowed:
                    below = ", ".join(sorted(allowed - {package.name})) or "no other package"
                    yield Violation(
                        f"{workspace.show(path)}:{line}",
                        f"{package.name} may not import {sibling}",
                        f"it may import {below}; meet through core's protocols instead",
                    )


def _module_name(package: Package, path: Path) -> str:
    parts = path.relative_to(package.root / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sibling(name: str) -> str | None:
    root, _, rest = name.partition(".")
    return rest.split(".")[0] if root == NAMESPACE and rest else None


def _distribution(name: str) -> str | None:
    """Return the distribution that provides a module, or None for the standard library."""
    sibling = _sibling(name)
    if sibling is not None:
        return f"{NAMESPACE}-{sibling}"
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] in {"", NAMESPACE}:
        return None
    for length in range(len(parts), 0, -1):
        known = DISTRIBUTION_OF.get(".".join(parts[:length]))
        if known is not None:
            return known
    return normalise(parts[0])


def _installed_for_tests(workspace: Workspace, package: Package) -> set[str]:
    """Return what the isolated test run of a package installs, as far as this tree declares it."""
    installed: set[str] = {package.distribution}
    waiting: list[Requirement] = [*package.runtime, *package.test_group]
    seen: set[Requirement] = set()
    while waiting:
        requirement = waiting.pop()
        if requirement in seen:
            continue
        seen.add(requirement)
        installed.add(requirement.name)
        sibling = workspace.by_name.get(requirement.sibling or "")
        if sibling is not None:
            waiting.extend(sibling.dependencies)
            for extra in requirement.extras:
                waiting.extend(sibling.extras.get(extra, ()))
    return installed
