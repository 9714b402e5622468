"""Which test runs a change calls for, as rows of a GitHub matrix."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from workspace.graph import with_dependents
from workspace.model import Workspace, WorkspaceError, release

Row = dict[str, str]

_NEVER_TESTED = (".md", "LICENSE")
_TESTED_FROM_THE_ROOT = ("docs/", "tests/")


def rows(workspace: Workspace, names: set[str]) -> list[Row]:
    """Return the runs of the named packages: every Python, every extra, and the lowest versions.

    Each row holds `package`, `python` and `options`, the words that `.ci/package` passes to uv.
    """
    return [
        row
        for package in workspace.packages
        if package.name in names
        for row in _rows_of(package.name, package.pythons, sorted(package.extras))
    ]


def lowest_rows(workspace: Workspace) -> list[Row]:
    """Return one run per package with the oldest Python and the lowest allowed versions."""
    return [row for row in rows(workspace, set(workspace.by_name)) if "lowest" in row["options"]]


def _rows_of(name: str, pythons: Sequence[str], extras: Sequence[str]) -> Iterator[Row]:
    if not pythons:
        message = f"packages/{name} names no Python; add its classifiers"
        raise WorkspaceError(message)
    oldest, newest = min(pythons, key=release), max(pythons, key=release)
    for python in pythons:
        yield {"package": name, "python": python, "options": ""}
    for extra in extras:
        yield {"package": name, "python": newest, "options": f"--extra {extra}"}
    yield {"package": name, "python": oldest, "options": "--resolution lowest-direct"}


def touched(workspace: Workspace, base: str) -> set[str]:
    """Return the packages that the commits since `base` may have broken.

    A file of a package touches the package and all that stand on it. Any other file touches every
    package, but for prose and for what is tested from the root anyway.

    Raises:
        WorkspaceError: git does not know `base`.
    """
    changed: set[str] = set()
    for path in _changed_files(workspace.root, base):
        directory, _, rest = path.partition("/")
        if directory == "packages":
            changed.add(rest.split("/")[0])
        elif not path.endswith(_NEVER_TESTED) and not path.startswith(_TESTED_FROM_THE_ROOT):
            return set(workspace.by_name)
    return with_dependents(workspace, changed & set(workspace.by_name))


def _changed_files(root: Path, base: str) -> list[str]:
    command = ["git", "diff", "--name-only", "--no-renames", f"{base}...HEAD"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"git cannot compare with {base!r} ({done.stderr.strip()}); fetch it first"
        raise WorkspaceError(message)
    return done.stdout.split("\n")[:-1]
