"""Who stands on whom."""

from collections.abc import Iterable, Mapping

from workspace.model import Package, Workspace, WorkspaceError


def layers(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Sort names into layers, highest first; each stands only on names of lower layers.

    Args:
        edges: Name to the names it stands on. Names without an entry of their own are left out.

    Raises:
        WorkspaceError: The edges form a circle.
    """
    remaining = {name: set(below) & set(edges) for name, below in edges.items()}
    found: list[list[str]] = []
    while remaining:
        bottom = sorted(name for name, below in remaining.items() if not below)
        if not bottom:
            message = f"a circle of packages: {', '.join(sorted(remaining))}"
            raise WorkspaceError(message)
        found.insert(0, bottom)
        remaining = {
            name: below - set(bottom) for name, below in remaining.items() if name not in bottom
        }
    return found


def siblings(package: Package, *, tests: bool = False) -> set[str]:
    """Return the workspace packages that a package requires, those of its tests on request."""
    requirements = package.runtime + (package.test_group if tests else ())
    found = {requirement.sibling for requirement in requirements}
    return {name for name in found if name is not None and name != package.name}


def with_dependents(workspace: Workspace, changed: set[str]) -> set[str]:
    """Return `changed` and every package that runs or tests on one of them, however far."""
    users = {package.name: siblings(package, tests=True) for package in workspace.packages}
    affected = set(changed)
    while True:
        grown = affected | {name for name, below in users.items() if below & affected}
        if grown == affected:
            return affected
        affected = grown


def describe(workspace: Workspace) -> str:
    """Render the layers of the workspace as text, one package a line, highest first."""
    edges = {package.name: siblings(package) for package in workspace.packages}
    width = max((len(name) for name in edges), default=0)
    ranks = layers(edges)
    lines = [
        f"{len(ranks) - 1 - rank}  {name:<{width}}  {' '.join(sorted(edges[name]))}".rstrip()
        for rank, layer in enumerate(ranks)
        for name in layer
    ]
    return "\n".join(lines)
