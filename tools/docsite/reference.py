"""A page of the reference for every public module, made of what its `__all__` names."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docsite.pages import write_if_changed

_KINDS = ("Classes", "Errors", "Functions", "Data")
_LONGEST_VALUE = 100
"""Longer values say less than the text beside them."""


@dataclass
class Module:
    """A public module.

    Attributes:
        name: Its dotted name.
        names: What it exports, by kind; what another page describes is left out.
        elsewhere: What another page describes, by the name it is described under.
    """

    name: str
    names: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    elsewhere: dict[str, str] = field(default_factory=dict[str, str])


def write_reference(root: Path, folder: Path) -> None:
    """Write a page for every public module of the packages under a root.

    Args:
        root: The repository.
        folder: Where the pages go; pages of modules that are gone are removed.
    """
    current: set[Path] = set()
    for module in describe_modules(public_modules(root)):
        path = folder / f"{module.name}.rst"
        write_if_changed(path, render(module))
        current.add(path)
    for stale in set(folder.glob("*.rst")) - current:
        stale.unlink()


def public_modules(root: Path) -> list[str]:
    """Return the modules with an `__all__` and no leading underscore, shallow ones first."""
    found: list[str] = []
    for source in sorted((root / "packages").glob("*/src")):
        for path in source.rglob("*.py"):
            parts = path.relative_to(source).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            is_public = not any(part.startswith("_") for part in parts)
            if is_public and "\n__all__" in path.read_text(encoding="utf-8"):
                found.append(".".join(parts))
    return sorted(found, key=lambda name: (name.count("."), name))


def describe_modules(names: list[str]) -> list[Module]:
    """Import modules and sort what they export; each object is described once.

    Args:
        names: The modules; the first that exports an object describes it.
    """
    homes: dict[object, str] = {}
    modules: list[Module] = []
    for name in names:
        module = Module(name)
        imported = importlib.import_module(name)
        for exported in sorted(imported.__all__):
            held = getattr(imported, exported)
            key = _identify(held, f"{name}.{exported}")
            home = homes.setdefault(key, f"{name}.{exported}")
            if home == f"{name}.{exported}":
                module.names[_kind(held)].append(exported)
            else:
                module.elsewhere[exported] = home
        modules.append(module)
    return modules


def _identify(held: Any, otherwise: str) -> object:
    """Return what an object is known by: where it is defined, or for data where it is exported."""
    if inspect.isclass(held) or inspect.isroutine(held):
        return held.__module__, held.__qualname__
    return otherwise


def _kind(held: Any) -> str:
    if inspect.isclass(held):
        return "Errors" if issubclass(held, BaseException) else "Classes"
    return "Functions" if inspect.isroutine(held) else "Data"


def render(module: Module) -> str:
    """Return a module's page in reStructuredText."""
    return "\n".join(_lines(module)) + "\n"


def _lines(module: Module) -> Iterator[str]:
    yield from (module.name, "=" * len(module.name), "", f".. automodule:: {module.name}", "")
    yield from (f".. currentmodule:: {module.name}", "")
    for kind in _KINDS:
        if module.names[kind]:
            yield from (kind, "-" * len(kind), "")
        for name in module.names[kind]:
            yield from _entry(kind, module.name, name)
            yield ""
    if module.elsewhere:
        yield from ("Described elsewhere", "-------------------", "")
        yield from (f"- `{name}`: :py:obj:`{home}`" for name, home in module.elsewhere.items())


def _entry(kind: str, module: str, name: str) -> Iterator[str]:
    if kind == "Functions":
        yield f".. autofunction:: {module}.{name}"
    elif kind == "Data":
        value, text = find_data(module, name)
        yield f".. py:data:: {module}.{name}"
        if len(value) <= _LONGEST_VALUE:
            yield f"   :value: {value}"
        yield ""
        yield from (f"   {line}".rstrip() for line in text.splitlines())
    else:
        held = getattr(importlib.import_module(module), name)
        yield f".. {'autoclass' if kind == 'Classes' else 'autoexception'}:: {module}.{name}"
        yield f"   :members: {', '.join(members(held))}".rstrip()
        yield "   :show-inheritance:"


def members(held: type) -> list[str]:
    """Return the public members of a class, those of private bases of ours included."""
    found: dict[str, None] = {}
    for base in held.__mro__:
        is_private = base.__module__.startswith("pellucid.") and base.__name__ not in vars(
            importlib.import_module(base.__module__.partition("._")[0])
        )
        if base is held or is_private:
            names = [*vars(base), *vars(base).get("__annotations__", {})]
            found |= dict.fromkeys(n for n in names if n == "__call__" or not n.startswith("_"))
    return list(found)


def find_data(module: str, name: str) -> tuple[str, str]:
    """Return the value that data is given, as it is written, and the text below it.

    Args:
        module: The module that exports it; imports are followed to where it is defined.
        name: Its name there.
    """
    source = inspect.getsource(importlib.import_module(module))
    body = ast.parse(source).body
    for position, node in enumerate(body):
        if isinstance(node, ast.ImportFrom):
            original = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in original and node.module:
                return find_data(node.module, original[name])
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return ast.unparse(node.value), _text_after(body, position)
    return "", ""


def _text_after(body: list[ast.stmt], position: int) -> str:
    match body[position + 1 : position + 2]:
        case [ast.Expr(value=ast.Constant(value=str() as text))]:
            return inspect.cleandoc(text)
        case _:
            return ""
