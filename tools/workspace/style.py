"""Rules about the text of Python files that the linters do not know."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from workspace.model import Violation, Workspace
from workspace.source import dotted_name, nodes, parse

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70

_MARKS = {f"pytest.mark.{kind}": f"pytest.mark.{kind}" for kind in ("skip", "skipif", "xfail")}
_CALLS = {f"pytest.{kind}": f"pytest.{kind}" for kind in ("skip", "xfail", "importorskip")}
_SKIPS = (ast.Call, ast.Attribute, ast.Name)  # what a skip can be, with or without its reason
_QUARANTINED = {"pytest.mark.skip", "pytest.mark.xfail"}
_QUARANTINE_ROW = re.compile(r"^\| `(?P<test>[^`]+::[^`]+)` \|", re.MULTILINE)


def no_future_annotations(workspace: Workspace) -> Iterator[Violation]:
    """Annotations stay values, so that the runtime checker can read them."""
    for path in workspace.python_files():
        for node in parse(path).body:
            if not isinstance(node, ast.ImportFrom) or node.module != "__future__":
                continue
            if "annotations" in {alias.name for alias in node.names}:
                yield Violation(
                    f"{workspace.show(path)}:{node.lineno}",
                    "from __future__ import annotations hides types from the runtime checker",
                    "delete the line",
                )


def files_are_short(workspace: Workspace) -> Iterator[Violation]:
    """One idea per file; a long file holds several."""
    for path in workspace.python_files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            yield Violation(
                workspace.show(path),
                f"{lines} lines, more than {MAX_FILE_LINES}",
                "split it by idea",
            )


def functions_are_short(workspace: Workspace) -> Iterator[Violation]:
    """A function is read at one glance: its docstring counts, a long list of options does not."""
    for path in workspace.python_files():
        for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            first, last = function.body[0], function.body[-1]
            lines = (last.end_lineno or last.lineno) - first.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield Violation(
                    f"{workspace.show(path)}:{function.lineno}",
                    f"{function.name} has {lines} lines, more than {MAX_FUNCTION_LINES}",
                    "give its parts names of their own",
                )


def skips_give_reasons(workspace: Workspace) -> Iterator[Violation]:
    """A test that does not run says why."""
    for path in _test_files(workspace):
        aliases = _pytest_names(path)
        called = {id(node.func) for node in nodes(path, ast.Call)}
        for node in nodes(path, *_SKIPS):
            kind = _skip_kind(node, aliases)
            if kind is None or id(node) in called:
                continue
            if not isinstance(node, ast.Call) or not _has_reason(node, kind):
                yield Violation(
                    f"{workspace.show(path)}:{node.lineno}",
                    f"{kind} without a reason",
                    'say why in reason="..."',
                )


def quarantine_is_listed(workspace: Workspace) -> Iterator[Violation]:
    """Tests that are switched off stand in CONTRIBUTING.md, and nothing else does."""
    path = workspace.root / "CONTRIBUTING.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    listed = {match["test"] for match in _QUARANTINE_ROW.finditer(text)}
    marked = set(_switched_off(workspace))
    for test in sorted(marked - listed):
        yield Violation(
            test, "is switched off without a row", "add it to the quarantine in CONTRIBUTING.md"
        )
    for test in sorted(listed - marked):
        yield Violation(
            "CONTRIBUTING.md", f"the quarantine lists {test}, which runs", "remove the row"
        )


def _switched_off(workspace: Workspace) -> Iterator[str]:
    """Yield `path::name` for a switched-off function or class, `path::*` for any other mark."""
    for path in _test_files(workspace):
        aliases = _pytest_names(path)
        decorating: set[int] = set()
        for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
            off = [
                mark for mark in node.decorator_list if _skip_kind(mark, aliases) in _QUARANTINED
            ]
            decorating |= {id(part) for mark in off for part in ast.walk(mark)}
            if off:
                yield f"{workspace.show(path)}::{node.name}"
        for node in nodes(path, *_SKIPS):
            if _skip_kind(node, aliases) in _QUARANTINED and id(node) not in decorating:
                yield f"{workspace.show(path)}::*"


def _test_files(workspace: Workspace) -> Iterator[Path]:
    for package in workspace.packages:
        yield from package.test_files()
    yield from sorted((workspace.root / "tests").rglob("*.py"))


def _pytest_names(path: Path) -> Mapping[str, str]:
    """Return local names of what a file takes from pytest: `skip` for `from pytest import skip`."""
    names: dict[str, str] = {}
    for node in nodes(path, ast.ImportFrom):
        if node.module == "pytest":
            names |= {alias.asname or alias.name: f"pytest.{alias.name}" for alias in node.names}
    for node in nodes(path, ast.Import):
        names |= {a.asname: "pytest" for a in node.names if a.name == "pytest" and a.asname}
    return names


def _skip_kind(node: ast.AST, aliases: Mapping[str, str]) -> str | None:
    """Return the full name of the skip that a node is, be it a call or a bare decorator."""
    is_call = isinstance(node, ast.Call)
    expression = node.func if is_call else node
    if not isinstance(expression, ast.Attribute | ast.Name):
        return None
    head, _, rest = dotted_name(expression).partition(".")
    name = ".".join(part for part in (aliases.get(head, head), rest) if part)
    return _MARKS.get(name) or (_CALLS.get(name) if is_call else None)


def _has_reason(call: ast.Call, kind: str) -> bool:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    reason = named.get("reason")
    if reason is None and call.args and kind in {"pytest.skip", "pytest.xfail", "pytest.mark.skip"}:
        reason = call.args[0]
    is_empty = isinstance(reason, ast.Constant) and not str(reason.value or "").strip()
    return reason is not None and not is_empty
