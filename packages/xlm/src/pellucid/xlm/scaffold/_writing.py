"""Writing many files so that all of them are there in the end, or none."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pellucid.core import ArgumentError
from pellucid.xlm.scaffold._project import Plan


def find_obstacles(plan: Plan, *, force: bool) -> list[str]:
    """Return, in words, what keeps a plan from being written."""
    root = plan.root.resolve()
    found: list[str] = []
    for path in (*plan.files, *plan.edits):
        target = plan.root / path
        if not target.resolve().is_relative_to(root):
            found.append(f"{path} leads out of the directory, by a link")
        elif target.is_dir():
            found.append(f"{path} is a directory")
        elif path in plan.files and target.exists() and not force:
            found.append(f"{path} exists")
    return found


def write_plan(plan: Plan, *, force: bool = False) -> None:
    """Write a plan's files, or leave everything as it was.

    All are written aside first, on the same file system, and then moved to their places; if that
    fails, or is interrupted, they are moved back.

    Args:
        plan: What to write.
        force: Replace files that are there.

    Raises:
        ArgumentError: Something stands in the way.
        OSError: The disk is full, or may not be written to.
    """
    obstacles = find_obstacles(plan, force=force)
    if obstacles:
        shown = "; ".join(obstacles[:4]) + ("; ..." if len(obstacles) > 4 else "")
        raise ArgumentError(
            f"nothing was written to {str(plan.root)!r}: {shown}. Choose another directory or name"
            + ("" if force else ", or replace files with --force")
        )
    made = _make_directories([plan.root])
    try:
        with tempfile.TemporaryDirectory(prefix=".xlm-scaffold-", dir=plan.root) as name:
            _write_aside(Path(name) / "new", {**plan.files, **plan.edits})
            _move_in(Path(name), plan.root, [*plan.files, *plan.edits])
    except BaseException:
        _remove(made)
        raise


def _write_aside(directory: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _move_in(staging: Path, root: Path, paths: list[str]) -> None:
    moved: list[str] = []
    made = _make_directories([(root / path).parent for path in paths])
    try:
        for path in paths:
            target, kept = root / path, staging / "old" / path
            if target.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(target, kept)
            moved.append(path)
            (staging / "new" / path).replace(target)
    except BaseException:
        for path in moved:
            target, kept = root / path, staging / "old" / path
            if kept.exists():
                kept.replace(target)
            else:
                target.unlink(missing_ok=True)
        _remove(made)
        raise


def _make_directories(wanted: list[Path]) -> list[Path]:
    """Make directories and those above them; return the new ones, outer ones first."""
    made: list[Path] = []
    for directory in wanted:
        missing = [each for each in (directory, *directory.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir()
            made.append(each)
    return made


def _remove(made: list[Path]) -> None:
    for directory in reversed(made):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


__all__ = ["find_obstacles", "write_plan"]
