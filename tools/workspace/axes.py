"""The rule that tensor annotations speak one language."""

import ast
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from workspace.model import Violation, Workspace, WorkspaceError
from workspace.source import nodes, parse

GLOSSARY = "packages/core/src/pellucid/core/axes.py"


def axes_are_in_the_glossary(workspace: Workspace) -> Iterator[Violation]:
    """Every axis name of a tensor annotation has one meaning, written in the glossary."""
    glossed = glossary(workspace.root / GLOSSARY)
    for package in workspace.packages:
        known = set(
            glossed
        )  # what is missing is reported where it comes first, then taken for known
        for path in package.source_files():
            for line, shape in shapes(path):
                for axis in axis_names(shape):
                    if axis not in known:
                        known.add(axis)
                        near = get_close_matches(axis, glossed, n=1)
                        hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
                        yield Violation(
                            f"{workspace.show(path)}:{line}",
                            f"axis {axis!r} of {shape!r} is not in the glossary",
                            f"{hint}add it with its meaning to {GLOSSARY}",
                        )


def glossary(path: Path) -> frozenset[str]:
    """Return the keys of the dict that `AXES` is made of.

    Raises:
        WorkspaceError: The file, or the dict in it, is missing.
    """
    if path.is_file():
        for node in parse(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(target, ast.Name) and target.id == "AXES" for target in targets):
                return _literal_keys(node)
    message = f"{path} does not define AXES; it is the glossary of axis names"
    raise WorkspaceError(message)


def _literal_keys(node: ast.AST) -> frozenset[str]:
    tables = (inner for inner in ast.walk(node) if isinstance(inner, ast.Dict))
    keys = (key for table in tables for key in table.keys)
    return frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))


def shapes(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the shape string of every jaxtyping annotation in a file."""
    kinds = {
        alias.asname or alias.name
        for node in nodes(path, ast.ImportFrom)
        if node.module == "jaxtyping"
        for alias in node.names
    }
    for node in nodes(path, ast.Subscript):
        if not isinstance(node.slice, ast.Tuple):
            continue
        if _last_name(node.value) not in kinds and not _is_qualified(node.value):
            continue
        shape = node.slice.elts[-1]
        if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
            yield node.lineno, shape.value


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_qualified(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "jaxtyping"
    )


@cache
def axis_names(shape: str) -> tuple[str, ...]:
    """Return the names in a shape string: `"*batch pos+1 d_model=64 3 ..."` holds three.

    Numbers, `...`, the modifiers `*`, `#`, `?` and `_`, and expressions in braces name no axis.
    """
    return tuple(name for axis in shape.split() for name in _names(axis.lstrip("*#?_")))


def _names(axis: str) -> Iterator[str]:
    if not axis or axis == "..." or "{" in axis:
        return
    bare = axis.partition("=")[0]
    try:
        expression = ast.parse(bare, mode="eval")
    except SyntaxError:
        yield bare
        return
    called = {id(node.func) for node in ast.walk(expression) if isinstance(node, ast.Call)}
    for node in ast.walk(expression):
        if isinstance(node, ast.Name) and id(node) not in called:
            yield node.id
