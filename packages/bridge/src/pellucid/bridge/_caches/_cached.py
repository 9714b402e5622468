"""A mapping of activations: how a key finds what is held or follows from it."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._engine._derived import derive
from pellucid.bridge._errors import HookNameError
from pellucid.bridge._names._act_names import get_act_name
from pellucid.bridge._names._slices import Slice
from pellucid.bridge._names._table import HookKey, HookTable
from pellucid.core import ArgumentError

_GRADIENT = "_grad"


class CachedActivations(Mapping[str, Tensor]):
    """Activations by name, each held once, under its canonical name.

    Args:
        cache_dict: Canonical name to activation.
        model: The bridge that they come from; without it, what needs weights is refused.
        has_batch_dim: Whether the first axis is that of the batch.
        aliases: Other names of what is held, where there is no model to say.
    """

    def __init__(
        self,
        cache_dict: MutableMapping[str, Tensor],
        model: Any,
        has_batch_dim: bool = True,
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.cache_dict = cache_dict
        self.model = model
        self.has_batch_dim = has_batch_dim
        self._aliases = aliases or {}
        # The class of the model that a file says it comes from.
        self._origin = ""

    @property
    def bridge(self) -> Any:
        """The bridge that the activations come from.

        Raises:
            ArgumentError: (a ValueError) If the cache was loaded without one.
        """
        if self.model is None:
            raise ArgumentError(
                "this needs the model's weights, and the cache was loaded without its model. Pass "
                "it: ActivationCache.load(path, model=bridge)."
            )
        return self.model

    def __getitem__(self, key: HookKey | int) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        if isinstance(key, int):
            return self.cache_dict[list(self.cache_dict)[key]]
        is_gradient = isinstance(key, str) and key.endswith(_GRADIENT)
        asked = key.removesuffix(_GRADIENT) if isinstance(key, str) else key
        name = self._resolve(asked) + (_GRADIENT if is_gradient else "")
        if name in self.cache_dict:
            return self.cache_dict[name]
        made = None if is_gradient or self.model is None else derive(name, self._held, self.model)
        if made is None:
            raise HookNameError(name, self.cache_dict, where="the cache")
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # pyright: ignore[reportArgumentType] - any key may be asked about
        except (KeyError, TypeError, ValueError, IndexError):
            return False
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} activations)"

    @property
    def _held(self) -> Mapping[str, Tensor]:
        return self.cache_dict

    @property
    def _table(self) -> HookTable:
        return self.bridge.hook_table()

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return len(next(iter(self.bridge._stacks.values())))

    def _resolve(self, key: HookKey) -> str:
        if self.model is not None:
            return self._table.resolve(key)
        name, layer, part = (key, None, None) if isinstance(key, str) else (*key, None, None)[:3]
        full = get_act_name(str(name), layer, None if part is None else str(part))
        found = self._aliases.get(full, full)
        if found not in self.cache_dict:
            raise HookNameError(full, [*self.cache_dict, *self._aliases], where="the cache")
        return found

    # What the algebra is made of.

    def _stream(self, layer: int, pos_slice: Any = None) -> Tensor:
        """Return the stream before a block, after the last one if there is none of this number."""
        n = self.n_layers
        key = ("resid_pre", layer) if layer < n else ("resid_post", n - 1)
        return self._at(key, pos_slice)

    def _at(self, key: HookKey, pos_slice: Any = None, axis: int = -2) -> Tensor:
        """Return an activation at some positions.

        Args:
            key: Its name.
            pos_slice: Which positions.
            axis: The axis of positions; that of a stream if not given.
        """
        return Slice(pos_slice).apply(self[key], dim=axis)

    def _place(self, layer: int | None) -> int:
        """Return a layer's number, that after the last one for None and -1."""
        n = self.n_layers
        placed = n if layer is None or layer == -1 else layer
        if not 0 <= placed <= n:
            raise ArgumentError(f"layer={layer!r} lies outside of the {n} blocks.")
        return placed

    def _batch_names(self) -> list[str]:
        """Return the names of what has an axis of the batch."""
        if self.model is None:
            return [name for name in self.cache_dict if not _is_of_tokens(name)]
        table = self._table
        return [
            name
            for name in self.cache_dict
            if name.removesuffix(_GRADIENT) not in table
            or table[name.removesuffix(_GRADIENT)].shape.startswith("batch")
        ]

    def _batch_size(self) -> int:
        sizes = [len(self.cache_dict[name]) for name in self._batch_names()]
        return max(sizes, default=1)


def _is_of_tokens(name: str) -> bool:
    # A router sees the tokens of all samples in one row.
    return ".router." in name or ".hook_expert_" in name


def stack_or_none(parts: list[Tensor], like: Tensor) -> Tensor:
    """Return tensors along a new first axis, of length 0 if there are none."""
    return torch.stack(parts) if parts else like.new_zeros(0, *like.shape)
