"""Caches of transformers for a whole batch, as views of one that holds a single row."""

import copy
import functools
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# Their updates make new tensors and leave the old ones as they are.
_SHARABLE = (DynamicLayer, DynamicSlidingWindowLayer)


def name_unsharable_layer(cache: Any) -> str:
    """Say why a cache cannot be shared by candidates; empty if it can."""
    if type(cache) is not DynamicCache:
        return f"the model's cache is a {type(cache).__name__}, not a DynamicCache"
    for layer in cache.layers:
        if type(layer) not in _SHARABLE:
            return f"the model's cache has a {type(layer).__name__}, not keys and values alone"
    if all(getattr(layer, "keys", None) is None for layer in cache.layers):
        return "the model returns an empty cache"
    return ""


def view_cache(cache: Any, batch: int, *, n_dropped: int = 0) -> Any:
    """Return a cache for a batch that shares its memory with one of a single row.

    Nothing that a forward pass does to it reaches the original. It serves one pass: what a layer
    adds is handed to its attention and not kept, so that only one layer's keys and values are held
    for the whole batch at a time.

    Args:
        cache: A cache for which `name_unsharable_layer` names nothing.
        batch: How many rows.
        n_dropped: How many positions at the end to leave out; not more than `record_cache` has let
            the cache keep.
    """
    twin = copy.copy(cache)
    twin.layers = [_view_layer(layer, batch, n_dropped) for layer in cache.layers]
    return twin


def record_cache(cache: Any) -> Any:
    """Return a copy of a cache that keeps all that one pass adds, beyond its windows too.

    Args:
        cache: A cache for which `name_unsharable_layer` names nothing.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in twin.layers:
        layer.update = functools.partial(_update_and_keep_all, layer)
    return twin


def _view_layer(layer: Any, batch: int, n_dropped: int) -> Any:
    twin = copy.copy(layer)
    if not layer.is_initialized:
        return twin
    twin.keys = _view_states(layer, layer.keys, batch, n_dropped)
    twin.values = _view_states(layer, layer.values, batch, n_dropped)
    if isinstance(layer, DynamicSlidingWindowLayer):
        twin.cumulative_length = layer.cumulative_length - n_dropped
    twin.update = functools.partial(_update_without_keeping, twin, dict(vars(twin)))
    return twin


def _view_states(layer: Any, states: Tensor, batch: int, n_dropped: int) -> Tensor:
    states = states[..., : states.shape[-2] - n_dropped, :]
    if isinstance(layer, DynamicSlidingWindowLayer):
        states = states[..., -layer.sliding_window + 1 :, :]
    return states.expand(batch, *states.shape[1:])


def _update_without_keeping(
    layer: Any, before: dict[str, Any], keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    whole = type(layer).update(layer, keys, values, *args, **kwargs)
    vars(layer).update(before)
    return whole


def _update_and_keep_all(
    layer: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    layer.keys, layer.values = type(layer).update(layer, keys, values, *args, **kwargs)
    return layer.keys, layer.values
