"""A layer of transformers' cache that forgets keys which no token will attend to again."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from pellucid.core import ArgumentError

# Kept beyond the window, so that the drafts of assisted generation can be taken back.
_SPARE = 64


class WindowedLayer(DynamicLayer):
    """Holds the last keys and values alone, as many as a window and some to be taken back.

    To transformers it is no sliding layer: masks are made for all layers alike, from the numbers
    that it gives.

    Attributes:
        window: How many tokens a token attends to, itself included.
        seen: How many tokens there have been.
    """

    window: int
    seen: int

    @property
    def shown(self) -> int:
        """How many of the tokens so far the next ones may attend to."""
        return min(self.seen, self.window - 1)

    def update(
        self,
        key_states: Float[Tensor, "batch kv_head pos d_head"],
        value_states: Float[Tensor, "batch kv_head pos d_head"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "batch kv_head _ d_head"], Float[Tensor, "batch kv_head _ d_head"]]:
        """Take in new keys and values, and return what the new tokens may attend to."""
        count = key_states.shape[-2]
        shown = self.shown + count
        whole = super().update(key_states, value_states, *args, **kwargs)
        self.seen += count
        kept = [x[..., -(self.window - 1 + _SPARE) :, :] for x in whole]
        # a view would hold on to all of a long prompt
        self.keys, self.values = kept if count == 1 else [x.clone() for x in kept]
        keys, values = (x[..., -shown:, :] for x in whole)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next tokens are given, and the position of the first."""
        return self.shown + query_length, self.seen - self.shown

    def get_seq_length(self) -> int:
        """Return how many tokens there have been."""
        return self.seen

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.seen = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back.

        Raises:
            ArgumentError: (a ValueError) If they are too many.
        """
        count = abs(tokens_to_remove)
        if not count or self.keys is None:
            return
        if self.keys.shape[-2] - count < min(self.seen - count, self.window - 1):
            raise ArgumentError(
                f"{count} tokens cannot be taken back from a cache that holds a window: "
                f"{_SPARE} at most."
            )
        super().crop(-count)
        self.seen -= count


def keep_window(cache: Any, layer_idx: int, window: int) -> WindowedLayer | None:
    """Make a layer of a cache hold a window alone, if it holds nothing yet.

    Layers of fixed size, and those that slide by themselves, stay as they are.

    Args:
        cache: A `transformers.Cache`, or an `EncoderDecoderCache`, whose first part is taken.
        layer_idx: Which layer.
        window: How many tokens a token attends to, itself included.

    Returns:
        The layer if it holds a window now.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    make = getattr(cache, "layer_class_to_replicate", None)
    while make is not None and len(cache.layers) <= layer_idx:
        cache.layers.append(make())
    layer = cache.layers[layer_idx] if layer_idx < len(cache.layers) else None
    if type(layer) is DynamicLayer and layer.get_seq_length() == 0:
        # The object stays the same: others may hold on to it.
        layer.__class__ = WindowedLayer
        layer.window, layer.seen = window, 0  # pyright: ignore[reportAttributeAccessIssue] - of its new class
    return layer if isinstance(layer, WindowedLayer) else None
