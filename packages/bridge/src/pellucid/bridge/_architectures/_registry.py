"""Which record describes a model."""

from importlib import metadata
from typing import Any

from torch import nn

from pellucid.bridge._architectures._described import read_described
from pellucid.bridge._architectures._record import Architecture
from pellucid.bridge._architectures._records import RECORDS
from pellucid.core import ArgumentError

ENTRY_POINT_GROUP = "pellucid.architectures"
_registered: dict[str, Architecture] = {}


def register_architecture(record: Architecture) -> None:
    """Add a record for this process; one for the same class that was there before gives way.

    Raises:
        ArgumentError: (a ValueError) If it is no record.
    """
    if not isinstance(record, Architecture):
        raise ArgumentError(f"expected an Architecture, got {record!r}.")
    for name in record.classes:
        _registered[name] = record


def known_architectures() -> dict[str, Architecture]:
    """Return all records by the class that they describe: ours, then plugins', then registered."""
    known = {name: record for record in RECORDS for name in record.classes}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        known.update({name: record for record in _load(point) for name in record.classes})
    return {**known, **_registered}


def find_record(model: nn.Module) -> Architecture | None:
    """Return the record of a model's class, or of the nearest class that it descends from.

    What was registered comes first, then what the model says of itself, then what is known.

    Raises:
        ArgumentError: (a ValueError) If the model describes itself, and not by a record.
    """
    kinds = [kind.__name__ for kind in type(model).__mro__]
    described = None
    if not _registered.keys() & set(kinds):
        described = read_described(model)
    known = known_architectures()
    return described or next((known[name] for name in kinds if name in known), None)


def _load(point: metadata.EntryPoint) -> list[Architecture]:
    held: Any = point.load()
    return [held] if isinstance(held, Architecture) else list(held)
