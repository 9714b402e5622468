"""The table of a model's activations: their names, aliases, shapes and meanings."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeAlias

from pellucid.bridge._engine._taps import Tap
from pellucid.bridge._errors import HookNameError
from pellucid.bridge._names._act_names import get_act_name
from pellucid.core import ArgumentError

HookKey: TypeAlias = str | tuple[str | int | None, ...]
"""A full name, a short name, or (short name, layer) or (short name, layer, part of the block)."""

NamesFilter: TypeAlias = HookKey | Iterable[HookKey] | Callable[[str], bool] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HookSpec:
    """One activation of a model.

    Attributes:
        name: Canonical name.
        aliases: Other names of the same activation.
        shape: Its axes, such as "batch pos d_model".
        meaning: What it is, in one line.
        layer: The number of its block, None outside of blocks.
        gate: The switch (`set_use_...`) without which "all activations" leaves it out.
        tap: How it is got at.
    """

    name: str
    shape: str
    meaning: str
    tap: Tap
    aliases: tuple[str, ...] = ()
    layer: int | None = None
    gate: str | None = None


class HookTable(Mapping[str, HookSpec]):
    """All activations of one model, in the order in which a forward pass makes them.

    Keys are canonical names; looking one up by an alias or a short name works as well. It never
    changes.

    Args:
        specs: In that order.
        n_layers: How many blocks there are, for negative layers.
    """

    def __init__(self, specs: Iterable[HookSpec], n_layers: int) -> None:
        held = tuple(specs)
        self._specs = {spec.name: spec for spec in held}
        self._canonical = {spec.name: spec.name for spec in held}
        for spec in held:
            for alias in spec.aliases:
                self._canonical.setdefault(alias, spec.name)
        self._order = {name: place for place, name in enumerate(self._specs)}
        self._n_layers = n_layers
        self.aliases: Mapping[str, str] = MappingProxyType(
            {a: name for a, name in self._canonical.items() if a not in self._specs}
        )

    def __getitem__(self, key: HookKey) -> HookSpec:
        return self._specs[self.resolve(key)]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._canonical

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def find(self, name: str) -> str | None:
        """Return the canonical name for a name or an alias, None if the model has neither."""
        return self._canonical.get(name)

    def resolve(self, key: HookKey) -> str:
        """Return the canonical name for a key.

        Raises:
            HookNameError: (a KeyError) If the model has no such activation; near matches are named.
        """
        if isinstance(key, str):
            found = self._canonical.get(key)
            if found is not None:
                return found
            full = get_act_name(key)
        else:
            full = self._write_out(key)
        found = self._canonical.get(full)
        if found is None:
            raise HookNameError(full, self._canonical)
        return found

    def order(self, names: Iterable[str]) -> list[str]:
        """Return canonical names in the order in which a forward pass makes them."""
        return sorted(names, key=self._order.__getitem__)

    def select(self, names_filter: NamesFilter, closed: frozenset[str] = frozenset()) -> list[str]:
        """Return the canonical names that a filter admits, in order.

        Args:
            names_filter: None for all, a key, a collection of keys, or a function that is asked
                about canonical names and aliases.
            closed: Gates that are not open: what stands behind them is left out unless named.

        Raises:
            HookNameError: (a KeyError) If a key names nothing.
            ArgumentError: (a ValueError) If it is none of these.
        """
        if names_filter is None:
            return [name for name, spec in self._specs.items() if spec.gate not in closed]
        if isinstance(names_filter, (str, tuple)):
            return [self.resolve(names_filter)]  # pyright: ignore[reportArgumentType] - a tuple is one key
        if callable(names_filter):
            return [
                name
                for name, spec in self._specs.items()
                if spec.gate not in closed and any(map(names_filter, (name, *spec.aliases)))
            ]
        if isinstance(names_filter, Iterable):
            return self.order({self.resolve(key) for key in names_filter})
        raise ArgumentError(
            f"names_filter must be None, a name, a list of names or a function, got "
            f"{names_filter!r}."
        )

    def _write_out(self, key: tuple[str | int | None, ...]) -> str:
        name, layer, part = (*key, None, None)[:3]
        if isinstance(layer, int) and layer < 0:
            layer += self._n_layers
        return get_act_name(str(name), layer, None if part is None else str(part))
