"""Records of models that describe themselves, from the plain data that they give."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

from torch import nn

from pellucid.bridge._architectures._record import Architecture
from pellucid.core import ArgumentError, DescribedModel

_CONFIG = "config"


def read_described(model: nn.Module) -> Architecture | None:
    """Return the record that a model gives of itself, None if it gives none.

    Raises:
        ArgumentError: (a ValueError) If what it gives is no record.
    """
    if not isinstance(model, DescribedModel):
        return None
    given = dict(model.describe_architecture())
    given.pop(_CONFIG, None)
    return read_record({"classes": (type(model).__name__,), **given})


def read_config(model: nn.Module) -> Any:
    """Return a model's configuration: its own, else what it says of itself.

    Raises:
        ArgumentError: (a ValueError) If there is neither.
    """
    held = getattr(model, "config", None)
    if held is None and isinstance(model, DescribedModel):
        held = SimpleNamespace(**model.describe_architecture().get(_CONFIG, {}))
    if held is None:
        raise ArgumentError(
            f"{type(model).__name__} has no config. Pass one: build_bridge_from_module(model, "
            "tl_config=TransformerBridgeConfig(d_model=..., n_layers=..., n_heads=...))."
        )
    return held


def read_record(data: Mapping[str, Any]) -> Architecture:
    """Return the record that plain data stands for: mappings for its parts, by their fields.

    Raises:
        ArgumentError: (a ValueError) If a key is no field.
    """
    return _read(Architecture, data)


def _read(kind: Any, data: Any) -> Any:
    if isinstance(data, kind) or not isinstance(data, Mapping):
        return data
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ArgumentError(
            f"{kind.__name__} has no field {unknown[0]!r}. Known are {', '.join(sorted(hints))}."
        )
    return kind(**{name: _convert(hints[name], value) for name, value in data.items()})


def _convert(hint: Any, value: Any) -> Any:
    """Make records of mappings where a field holds a record, several, or some by number."""
    record = next((held for held in _kinds(hint) if dataclasses.is_dataclass(held)), None)
    if record is None:
        is_mapping = isinstance(value, Mapping)
        return MappingProxyType(dict(value)) if is_mapping else _freeze(value)
    origins = {typing.get_origin(held) for held in (hint, *typing.get_args(hint))}
    if tuple in origins:
        return tuple(_read(record, item) for item in value)
    if Mapping in origins:
        return MappingProxyType({key: _read(record, item) for key, item in value.items()})
    return _read(record, value)


def _kinds(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (None, type):
        return [hint]
    return [held for part in typing.get_args(hint) for held in _kinds(part)]


def _freeze(value: Any) -> Any:
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(value) if is_sequence else value


__all__ = ["read_config", "read_described", "read_record"]
