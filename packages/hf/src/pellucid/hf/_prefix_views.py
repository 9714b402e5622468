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


def view_cache(cache: Any, batch: int) -> Any:
    """Return a cache for a batch that shares its memory with one of a single row.

    Nothing that a forward pass does to it reaches the original. It serves one pass: what a layer
    adds is handed to its attention and not kept, so that only one layer's keys and values are held
    for the whole batch at a time.

    Args:
        cache: A cache for which `name_unsharable_layer` names nothing.
        batch: How many rows.
    """
    twin = copy.copy(cache)
    twin.layers = [_view_layer(layer, batch) for layer in cache.layers]
    return twin


def _view_layer(layer: Any, batch: int) -> Any:
    twin = copy.copy(layer)
    if not layer.is_initialized:
        return twin
    twin.keys = layer.keys.expand(batch, *layer.keys.shape[1:])
    twin.values = layer.values.expand(batch, *layer.values.shape[1:])
    twin.update = functools.partial(_update_without_keeping, twin, dict(vars(twin)))
    return twin


def _update_without_keeping(
    layer: Any, before: dict[str, Any], keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    whole = type(layer).update(layer, keys, values, *args, **kwargs)
    vars(layer).update(before)
    return whole
