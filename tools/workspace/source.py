"""Python files as syntax trees, parsed and walked once."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from workspace.model import WorkspaceError

_Node = TypeVar("_Node", bound=ast.AST)


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of `path`.

    Raises:
        WorkspaceError: The file is not Python.
    """
    try:
        return _tree_of(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise WorkspaceError(f"{path}:{error.lineno}: {error.msg}") from error


def nodes(path: Path, *kinds: type[_Node]) -> Iterator[_Node]:
    """Yield every node of a file that is of one of these kinds, one kind after the other."""
    found = _nodes_by_kind(parse(path))
    for kind in kinds:
        for node in found.get(kind, ()):
            assert isinstance(node, kind)
            yield node


# By text: copies of a workspace, which tests make, have the files of the workspace.
_tree_of = cache(ast.parse)


@cache
def _nodes_by_kind(tree: ast.Module) -> Mapping[type[ast.AST], Sequence[ast.AST]]:
    found: defaultdict[type[ast.AST], list[ast.AST]] = defaultdict(list)
    for node in ast.walk(tree):
        found[type(node)].append(node)
    return dict(found)


def dotted_name(node: ast.expr) -> str:
    """Return `a.b.c` for a chain of names, and an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def imported_modules(path: Path, module: str) -> list[tuple[int, str]]:
    """Return the line and the absolute dotted name of everything that a file imports, in order.

    Imports inside functions and `importlib.import_module("literal")` count like all others. For
    `from a import b` the name is `a.b`: whether `b` is a module is not known, and need not be.

    Args:
        path: The file.
        module: Its dotted name, against which relative imports are resolved.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return sorted(_imports(path, package))


def _imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    for node in nodes(path, ast.Import):
        for alias in node.names:
            yield node.lineno, alias.name
    for node in nodes(path, ast.ImportFrom):
        base = _absolute_base(node, package)
        for alias in node.names:
            yield node.lineno, f"{base}.{alias.name}"
    for node in nodes(path, ast.Call):
        name = _literal_import(node)
        if name:
            yield node.lineno, name


def _absolute_base(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept)


def _literal_import(node: ast.Call) -> str:
    is_import = dotted_name(node.func) in {"importlib.import_module", "import_module", "__import__"}
    if not is_import or len(node.args) != 1:
        return ""
    target = node.args[0]
    if isinstance(target, ast.Constant) and isinstance(target.value, str):
        return target.value
    return ""


def top_level_names(tree: ast.Module) -> set[str]:
    """Return every name that a module binds at its top level, conditional blocks included."""
    names: set[str] = set()
    for node in _top_level_statements(tree.body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            case ast.Assign():
                names |= {name for target in node.targets for name in _bound(target)}
            case ast.AnnAssign():
                names |= _bound(node.target)
            case _:
                pass
    return names


def _top_level_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _top_level_statements(node.body)
        if isinstance(node, ast.If | ast.Try):
            yield from _top_level_statements(node.orelse)
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from _top_level_statements(handler.body)


def _bound(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
