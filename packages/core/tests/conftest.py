import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pellucid.core import _registry

# The import mode of this workspace keeps test folders off the path; samples lie beside the tests.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def register(monkeypatch):
    """Stand in for what is installed: `register(group, name="module:attribute", ...)`."""
    held: dict[str, list[EntryPoint]] = {}
    forget = _registry._entries.cache_clear

    def entry_points(*, group):
        return held.get(group, [])

    def register(group, **entries):
        held.setdefault(group, []).extend(
            EntryPoint(name.replace("_", "-"), value, group) for name, value in entries.items()
        )
        forget()

    monkeypatch.setattr(_registry, "entry_points", entry_points)
    forget()
    yield register
    forget()
