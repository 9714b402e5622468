"""Imports every module of the namespace with its annotated functions and dataclasses checked.

jaxtyping has such a hook, which sends every call through its bookkeeping of axes. Most functions
name none, and are checked at an eighth of the cost; see `pellucid.core._typecheck.checked`.
"""

import ast
import importlib.abc
import itertools
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

_NAME = "_pellucid_checked_"
# What is cached belongs to this way of decorating: another one needs another tag.
_CACHE_SUFFIX = ".checked-1.pyc"


def install() -> None:
    """Check what is imported from the namespace from now on."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("pellucid."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Decorates what it compiles, and caches it beside what others compiled."""

    def get_data(self, path: str) -> bytes:
        return super().get_data(_mark(path))

    def set_data(self, path: str, data: Any, **more: Any) -> None:
        super().set_data(_mark(path), data, **more)

    def source_to_code(self, data: Any, path: Any, **more: Any) -> CodeType:
        tree = ast.parse(data, path)
        _Decorator().visit(tree)
        n_first = len([*itertools.takewhile(_stays_first, tree.body)])
        name = ast.alias("checked", _NAME)
        tree.body.insert(n_first, ast.ImportFrom("pellucid.core._typecheck", [name], 0))
        return super().source_to_code(ast.fix_missing_locations(tree), path, **more)


def _mark(path: str) -> str:
    return path.removesuffix(".pyc") + _CACHE_SUFFIX if path.endswith(".pyc") else path


def _stays_first(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "__future__"
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class _Decorator(ast.NodeVisitor):
    """Adds the check to functions that are annotated, and to classes, which may be dataclasses."""

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.generic_visit(node)
        given = node.args
        arguments = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
        if node.returns or any(one is not None and one.annotation for one in arguments):
            # The others are to get the checked function: some of them take annotations away.
            node.decorator_list.append(_name_at(node))

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.generic_visit(node)
        # The first one is applied last, when @dataclass has written __init__.
        node.decorator_list.insert(0, _name_at(node))


def _name_at(node: ast.stmt) -> ast.Name:
    return ast.copy_location(ast.Name(_NAME, ast.Load()), node)
