"""Imports what an extra brings, when it is first needed."""

import importlib
import random
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pellucid.core import MissingDependencyError


def import_extra(module: str, *, extra: str) -> Any:
    """Import a module; what it does to warning filters and to `random` is undone.

    Raises:
        MissingDependencyError: (an ImportError) If it is not installed.
    """
    held = sys.modules.get(module)
    if held is not None:
        return held
    try:
        with undisturbed():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith((error.name or "?").partition(".")[0]):
            raise
        raise MissingDependencyError(
            f"the module {module!r} is not installed. pip install 'pellucid-api[{extra}]'"
        ) from error


@contextmanager
def undisturbed() -> Generator[None]:
    """Undo, at the end, what a block does to warning filters and to `random`; silence warnings."""
    state = random.getstate()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        random.setstate(state)
