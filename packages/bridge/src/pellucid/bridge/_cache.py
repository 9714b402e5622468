"""Cached activations of one run."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._errors import HookNameError
from pellucid.bridge._table import HookKey, HookTable


class ActivationCache(Mapping[str, Tensor]):
    """Activations by name: canonical, alias, or short with the layer.

    Each tensor is held once, under its canonical name; aliases are looked up. Gradients stand under
    the name with "_grad" after it.

    Examples:
        `cache["blocks.0.attn.hook_pattern"]`, `cache["pattern", 0]`, `cache["resid_post", -1]`.

    Args:
        cache_dict: Canonical name to activation.
        model: The bridge that they come from.
        has_batch_dim: Whether the first axis is that of the batch.
    """

    def __init__(
        self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True
    ) -> None:
        self.cache_dict = cache_dict
        self.model = model
        self.has_batch_dim = has_batch_dim

    @property
    def _table(self) -> HookTable:
        return self.model.hook_table()

    def __getitem__(self, key: HookKey | int) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        if isinstance(key, int):
            return list(self.cache_dict.values())[key]
        is_gradient = isinstance(key, str) and key.endswith("_grad")
        asked = key.removesuffix("_grad") if isinstance(key, str) else key
        name = self._table.resolve(asked) + ("_grad" if is_gradient else "")
        if name not in self.cache_dict:
            raise HookNameError(name, self.cache_dict)
        return self.cache_dict[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # pyright: ignore[reportArgumentType] - any key may be asked about
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} activations)"

    def remove_batch_dim(self) -> "ActivationCache":
        """Drop the axis of the batch, which must hold one sample; returns the cache itself."""
        if self.has_batch_dim:
            self.cache_dict = {
                name: held[0] if held.ndim and len(held) == 1 else held
                for name, held in self.cache_dict.items()
            }
            self.has_batch_dim = False
        return self

    def to(self, device: torch.device | str) -> "ActivationCache":
        """Move all activations to a device; returns the cache itself."""
        self.cache_dict = {name: held.to(device) for name, held in self.cache_dict.items()}
        return self
