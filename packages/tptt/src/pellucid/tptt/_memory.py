"""Linear attention's states inside the caches of transformers.

A cache's layer is given what it takes to hold them where it stands, so that beam search, batches
that change, cropping and offloading reach them along with keys and values.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.tptt._states import detach, map_tensors

# The name of what is remembered, in the dict of a cache's layer.
_PLACE = "pellucid_memory"
_PREFIX = "Remembering"


class CacheMemory:
    """The states of all layers, kept in a cache of transformers.

    Args:
        cache: A `transformers.Cache`, or an `EncoderDecoderCache`, whose first part is taken.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = getattr(cache, "self_attention_cache", cache)

    def __len__(self) -> int:
        """Return how many layers the cache has."""
        return len(self._cache.layers)

    def __getitem__(self, layer_idx: int) -> Mapping[str, Any] | None:
        """Return what a layer remembers; None if it remembers nothing."""
        layers = self._cache.layers
        return vars(layers[layer_idx]).get(_PLACE) if 0 <= layer_idx < len(layers) else None

    def update(self, layer_idx: int, **kwargs: Any) -> None:
        """Keep values for a layer, without the graphs of their gradients.

        Raises:
            ArgumentError: (a ValueError) If the cache has no such layer.
        """
        layers = self._cache.layers
        if not 0 <= layer_idx < len(layers):
            raise ArgumentError(
                f"the cache has {len(layers)} layers, and no layer {layer_idx!r}. Give the cache "
                "of this model, or none."
            )
        layer = layers[layer_idx]
        if _PLACE not in vars(layer) and not type(layer).__name__.startswith(_PREFIX):
            # The object stays the same: others hold on to it, and it may hold keys already.
            layer.__class__ = _remembering(type(layer))
        kept = {name: map_tensors(value, detach) for name, value in kwargs.items()}
        vars(layer).setdefault(_PLACE, {}).update(kept)

    def replace(self, layer_idx: int, states: Mapping[str, Any]) -> None:
        """Remember these values, which have no graphs, and nothing else."""
        vars(self._cache.layers[layer_idx])[_PLACE] = dict(states)


def get_memory_state(cache: Any) -> dict[int, dict[str, Any]]:
    """Return what linear attention remembers in a cache, by the number of the layer.

    The tensors are copies: they can be kept, moved and given to `set_memory_state` later, to go on
    with what was remembered but without the keys and values of softmax attention.

    Args:
        cache: A `transformers.Cache`, or an `EncoderDecoderCache`, whose first part is taken.
    """
    memory = CacheMemory(cache)
    held = {index: memory[index] for index in range(len(memory))}
    return {
        index: _change_all(_without_undo(states), torch.clone)
        for index, states in held.items()
        if states
    }


def set_memory_state(cache: Any, states: Mapping[int, Mapping[str, Any]]) -> None:
    """Make linear attention remember what `get_memory_state` returned.

    Args:
        cache: A cache that has the layers, such as `DynamicCache(config=model.config)`.
        states: What to remember, by the number of the layer.

    Raises:
        ArgumentError: (a ValueError) If the cache has no such layer.
    """
    memory = CacheMemory(cache)
    for index, state in states.items():
        memory.update(index, **_change_all(state, torch.clone))


def _without_undo(states: Mapping[str, Any]) -> dict[str, Any]:
    if states.get("pending") is not None:
        raise ArgumentError(
            "tokens were taken back and others not given yet. Give the next ones first."
        )
    return {name: states[name] for name in states if name not in ("before", "recent", "pending")}


def undo_tokens(states: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return what was remembered before the last `count` tokens.

    Raises:
        ArgumentError: (a ValueError) If that was too long ago.
    """
    pending = states.get("pending")
    base, recent = (states, pending) if pending is not None else (states.get("before"), None)
    if pending is None:
        recent = states.get("recent")
    held = 0 if recent is None else recent[0].shape[1]
    if base is None or recent is None or count > held:
        raise ArgumentError(
            f"{count} tokens cannot be taken back from linear attention's state, which can go back "
            f"{held}: no further than to the start of the last call, and 64 tokens at most."
        )
    names = ("before", "recent", "pending")
    undone = {name: value for name, value in base.items() if name not in names}
    if count < held:
        undone["pending"] = tuple(None if x is None else x[:, : held - count] for x in recent)
    return undone


def _change_all(states: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {
        name: _change_all(value, change)
        if isinstance(value, Mapping)
        else map_tensors(value, change)
        for name, value in states.items()
    }


def _change_held(layer: Any, change: Callable[[Tensor], Tensor]) -> None:
    held = vars(layer).get(_PLACE)
    if held:
        vars(layer)[_PLACE] = _change_all(held, change)


@functools.cache
def _remembering(layer_class: Any) -> type:
    """Return the class of a cache's layer that holds linear attention's states as well."""

    # One base alone: an object can only become one of a class that is laid out like its own.
    class Remembering(layer_class):
        _layer_type = None  # or transformers would build layers of this class from now on

        def reset(self) -> None:
            super().reset()
            self.__dict__.pop(_PLACE, None)

        def reorder_cache(self, beam_idx: Tensor) -> None:
            super().reorder_cache(beam_idx)
            _change_held(self, lambda x: x.index_select(0, beam_idx.to(x.device)))

        def batch_repeat_interleave(self, repeats: int) -> None:
            super().batch_repeat_interleave(repeats)
            _change_held(self, lambda x: x.repeat_interleave(repeats, dim=0))

        def batch_select_indices(self, indices: Tensor) -> None:
            super().batch_select_indices(indices)
            _change_held(self, lambda x: x[indices.to(x.device)])

        def crop(self, tokens_to_remove: int) -> None:
            super().crop(tokens_to_remove)
            held = self.__dict__.get(_PLACE)
            if tokens_to_remove and held:
                self.__dict__[_PLACE] = undo_tokens(held, abs(tokens_to_remove))

        def offload(self) -> None:
            super().offload()
            _change_held(self, lambda x: x.to("cpu", non_blocking=True))

        def prefetch(self) -> None:
            super().prefetch()
            device: torch.device = getattr(self, "device", torch.device("cpu"))
            _change_held(self, lambda x: x.to(device, non_blocking=True))

    Remembering.__name__ = Remembering.__qualname__ = f"{_PREFIX}{layer_class.__name__}"
    return Remembering
