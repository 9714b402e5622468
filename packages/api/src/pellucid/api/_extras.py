"""Imports what an extra brings, when it is first needed."""

import importlib
from typing import Any

from pellucid.core import MissingDependencyError


def import_extra(module: str, *, extra: str) -> Any:
    """Import a module.

    Raises:
        MissingDependencyError: (an ImportError) If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith((error.name or "?").partition(".")[0]):
            raise
        raise MissingDependencyError(
            f"the module {module!r} is not installed. pip install 'pellucid-api[{extra}]'"
        ) from error
