"""What the hook does to a module: loaded here by its loader, and cached beside the ordinary one."""

import asyncio
import importlib.util
import inspect
import os
import sys

import jaxtyping
import pytest
import torch

from pellucid.core import _import_hook

SOURCE = '''"""Says what it is."""

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

from jaxtyping import Float
from torch import Tensor


def plain(count: int, by: float = 1) -> float:
    return count * by if count else "none"


def axes(x: Float[Tensor, "batch pos"], y: Float[Tensor, " batch"]) -> Float[Tensor, " pos"]:
    return (x * y[:, None]).sum(dim=0)


def later(count: "int", other: "Nowhere" = None) -> None: ...


def says_nothing(x):
    return x


@overload
def either(x: int) -> int: ...
@overload
def either(x: str) -> str: ...
def either(x: int | str) -> int | str:
    return x


async def soon(x: int) -> int:
    return x


async def sum_soon(x: Float[Tensor, "batch pos"]) -> Float[Tensor, " pos"]:
    async def add(y: int) -> int:
        return y

    await add("" if x.numel() == 0 else 1)
    return x.sum(dim=0)


def several(*counts: int, **more: str) -> Iterator[int]:
    yield from counts


@contextmanager
def within(x: int) -> Generator[int, None, None]:
    yield x


def outer(x: int) -> Callable[[int], int]:
    def inner(y: int) -> int:
        return x + y

    return inner


@dataclass(frozen=True)
class Pair:
    x: int
    rows: Float[Tensor, "batch pos"]
    y: Float[Tensor, " batch"] | None = None

    __hash__ = None

    @property
    def twice(self) -> int:
        return 2 * self.x if self.x else None

    @functools.cached_property
    def thrice(self) -> int:
        return 3 * self.x if self.x else None

    @classmethod
    def of(cls, x: int) -> "Pair":
        return cls(x, torch_rows())

    @staticmethod
    def double(x: int) -> int:
        return 2 * x


@dataclass
class Wider(Pair.__base__):
    name: str = ""


@dataclass(init=False)
class ByHand:
    def __init__(self, x: int) -> None:
        self.x = x


class Plain:
    def __init__(self, x: int, /, *, y: int = 0) -> None:
        self.x = x


def torch_rows() -> Float[Tensor, "batch pos"]:
    import torch

    return torch.zeros(1, 1)


def fails() -> None:
    raise ZeroDivisionError
'''


def load(path):
    loader = _import_hook._Loader("pellucid_tried", str(path))
    spec = importlib.util.spec_from_file_location("pellucid_tried", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("hook") / "pellucid_tried.py"
    path.write_text(SOURCE)
    sys.modules["pellucid_tried"] = load(path)  # dataclasses look themselves up
    yield sys.modules["pellucid_tried"]
    del sys.modules["pellucid_tried"]


ROWS, ROW = torch.zeros(2, 3), torch.zeros(2)
RIGHT = {
    "plain": (lambda m: m.plain(2, by=3), 6),
    "axes": (lambda m: m.axes(ROWS + 1, ROW + 2).tolist(), [4.0, 4.0, 4.0]),
    "text": (lambda m: m.later(1), None),
    "nothing": (lambda m: m.says_nothing(1), 1),
    "overload": (lambda m: m.either("a"), "a"),
    "async": (lambda m: asyncio.run(m.soon(1)), 1),
    "async axes": (lambda m: asyncio.run(m.sum_soon(ROWS + 1)).tolist(), [2.0, 2.0, 2.0]),
    "generator": (lambda m: list(m.several(1, 2, name="a")), [1, 2]),
    "context": (lambda m: m.within(1).__enter__(), 1),
    "nested": (lambda m: m.outer(1)(2), 3),
    "dataclass": (lambda m: m.Pair(1, ROWS, ROW).y is ROW, True),
    "property": (lambda m: (m.Pair(1, ROWS).twice, m.Pair(1, ROWS).thrice), (2, 3)),
    "class": (lambda m: m.Pair.of(1).x, 1),
    "static": (lambda m: m.Pair.double(1), 2),
    "fields": (lambda m: m.Wider("a").name, "a"),
    "by hand": (lambda m: m.ByHand(1).x, 1),
    "method": (lambda m: m.Plain(1, y=2).x, 1),
}
WRONG = {
    "argument": lambda m: m.plain("a"),
    "default": lambda m: m.plain(1, by="a"),
    "result": lambda m: m.plain(0),
    "rank": lambda m: m.axes(ROW, ROW),
    "axes": lambda m: m.axes(ROWS, torch.zeros(3)),
    "text": lambda m: m.later("a"),
    "overload": lambda m: m.either(1.0),
    "async": lambda m: asyncio.run(m.soon("a")),
    "async axes": lambda m: asyncio.run(m.sum_soon(ROW)),
    "nested async": lambda m: asyncio.run(m.sum_soon(ROWS[:0])),
    "generator": lambda m: list(m.several("a")),
    "keywords": lambda m: list(m.several(name=1)),
    "context": lambda m: m.within("a").__enter__(),
    "nested": lambda m: m.outer(1)("a"),
    "field": lambda m: m.Pair("a", ROWS),
    "axes of fields": lambda m: m.Pair(1, ROWS, torch.zeros(3)),
    "property": lambda m: m.Pair(0, ROWS).twice,
    "cached property": lambda m: m.Pair(0, ROWS).thrice,
    "class": lambda m: m.Pair.of("a"),
    "static": lambda m: m.Pair.double("a"),
    "fields": lambda m: m.Wider(1),
    "by hand": lambda m: m.ByHand("a"),
    "method": lambda m: m.Plain(1, y="a"),
}


@pytest.mark.parametrize(("call", "expected"), RIGHT.values(), ids=RIGHT)
def test_what_keeps_to_its_annotations_does_what_it_did(module, call, expected):
    assert call(module) == expected


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_what_does_not_is_a_type_check_error(module, call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call(module)


def test_a_module_stays_what_it_was(module):
    assert module.__doc__ == "Says what it is."
    assert inspect.getsource(module.plain) in SOURCE
    with pytest.raises(ZeroDivisionError) as caught:
        module.fails()
    assert "raise ZeroDivisionError" in str(caught.traceback[-1].statement)
    assert str(inspect.signature(module.Plain)) == "(x: int, /, *, y: int = 0) -> None"


@pytest.mark.parametrize("more", ["", "from __future__ import annotations\n"])
def test_a_module_that_says_nothing_else_says_what_it_is(tmp_path, more):
    path = tmp_path / "tried.py"
    path.write_text(f'"""Says what it is."""\n{more}')
    assert load(path).__doc__ == "Says what it is."


def test_what_is_cached_is_read_again_until_the_source_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "tried.py"
    path.write_text("def f(x: int) -> int:\n    return x\n")
    load(path)
    (cached,) = (tmp_path / "__pycache__").iterdir()
    assert cached.name.endswith(_import_hook._CACHE_SUFFIX)
    compiled = []
    monkeypatch.setattr(_import_hook, "_Decorator", lambda: compiled.append(1))
    with pytest.raises(jaxtyping.TypeCheckError):
        load(path).f("a")
    assert not compiled
    monkeypatch.undo()
    path.write_text("def f(x: str) -> str:\n    return x\n")
    os.utime(path, (1, 1))
    assert load(path).f("a") == "a"


def test_only_the_namespace_is_looked_for():
    finder = _import_hook._Finder()
    assert finder.find_spec("json", None) is None
    assert finder.find_spec("pellucidity", None) is None
