"""Prepared tables on disk, under a key that changes with whatever they were made from."""

import functools
import hashlib
import inspect
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.core import CheckpointError
from pellucid.xlm.datamodule._table import Table

_LOGGER = logging.getLogger(__name__)


def cache_key(**parts: Any) -> str:
    """Return a digest of everything that a table is made from.

    Args:
        **parts: Plain values, functions, and whatever `describe` can tell apart.
    """
    return hashlib.sha256(json.dumps(describe(parts), sort_keys=True).encode()).hexdigest()[:32]


def describe(part: Any) -> Any:
    """Return plain values that differ where two parts do.

    A function is described by its name and its `cache_version`, or by its source where it has
    none; a partial one by its arguments too.
    """
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, Mapping):
        return {str(name): describe(held) for name, held in part.items()}
    if isinstance(part, Sequence):
        return [describe(held) for held in part]
    if isinstance(part, set | frozenset):
        return sorted(json.dumps(describe(held), sort_keys=True) for held in part)
    if isinstance(part, Path):
        return str(part)
    if callable(part):
        return _describe_callable(part)
    return f"{type(part).__qualname__}: {part!r}"


def tokenizer_fingerprint(tokenizer: Any) -> str | None:
    """Return a digest that two tokenizers share only if they encode alike; None for none."""
    if tokenizer is None:
        return None
    own = getattr(tokenizer, "fingerprint", None)
    if isinstance(own, str):
        return own
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        type(tokenizer).__qualname__,
        backend.to_str() if backend is not None else None,
        sorted(tokenizer.get_vocab().items()),
        str(getattr(tokenizer, "special_tokens_map", None)),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cached_table(directory: Path, make: Callable[[], Table], *, rewrite: bool = False) -> Table:
    """Return the table in a directory, made and written first if it is not there.

    It is written beside and then moved, so that a directory holds a whole table or none, and so
    that of several processes that make one at once none disturbs another.

    Args:
        directory: Named after a `cache_key`.
        make: Makes the table.
        rewrite: Make it even if it is there.
    """
    if not rewrite and directory.is_dir():
        try:
            return Table.load(directory)
        except CheckpointError as error:
            _LOGGER.warning("made anew: %s", error)
            rewrite = True
    table = make()
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        table.save(draft)
        _move(draft, directory, replace=rewrite)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Table.load(directory)


def _move(draft: Path, directory: Path, *, replace: bool) -> None:
    if replace and directory.is_dir():
        # A directory that holds something cannot be replaced: put it aside first.
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            directory.replace(aside / "old")
            draft.replace(directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return
    try:
        draft.replace(directory)
    except OSError:
        # Another process was quicker: its table was made from the same parts.
        if not directory.is_dir():
            raise


def _describe_callable(part: Any) -> Any:
    if isinstance(part, functools.partial):
        bound = [describe(part.func), describe(part.args), describe(part.keywords)]
        return {"partial": bound}
    target = part if inspect.isroutine(part) or inspect.isclass(part) else type(part)
    name = f"{target.__module__}.{target.__qualname__}"
    version = getattr(part, "cache_version", None)
    if version is not None:
        return {"name": name, "version": describe(version)}
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):
        code = getattr(target, "__code__", None)
        source = repr((code.co_code, code.co_consts)) if code else repr(target)
    held = None if target is part else repr(sorted(vars(part).items(), key=repr))
    return {"name": name, "source": source, "held": held, "closure": _closure(part)}


def _closure(function: Any) -> list[Any]:
    cells = getattr(function, "__closure__", None) or ()
    return [repr(cell.cell_contents) for cell in cells]
