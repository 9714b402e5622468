"""The backbone of families without noise levels: token ids in, logits out."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pellucid.core import ArgumentError
from pellucid.xlm.contracts import Model
from pellucid.xlm.modules._cache import KeyValueCache
from pellucid.xlm.modules._description import describe_network
from pellucid.xlm.modules._embedding import TokenEmbedding
from pellucid.xlm.modules._final import RotaryTransformerFinalLayer
from pellucid.xlm.modules._layer import RotaryTransformerLayerList
from pellucid.xlm.modules._masks import attention_mask_of
from pellucid.xlm.modules._rotary import RotaryEmbedding


class RotaryTransformer(Model):
    """A transformer that knows positions by rotation, and optionally neighbours from the start.

    A family derives its model from it and says whether it is causal.

    Attributes:
        is_causal: Whether a token sees only what stands before it.
        max_length: The longest text, in tokens.
    """

    is_causal: ClassVar[bool] = False

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        *,
        padding_idx: int | None = 0,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        rotary_emb_dim: int | None = 64,
        max_length: int = 1024,
        final_layer_without_normalization: bool = False,
        mix_neighbours: bool = False,
        tie_embeddings: bool = False,
    ) -> None:
        """Build the network with random weights from torch's own generator.

        Args:
            num_embeddings: Size of the vocabulary.
            d_model: Width of the residual stream.
            num_layers: Layers.
            nhead: Attention heads of each.
            padding_idx: The id whose embedding stays zero, or None.
            dim_feedforward: Width of a layer's network; four times `d_model` if None.
            dropout: See `RotaryTransformerLayer`.
            activation: "relu" or "gelu".
            layer_norm_eps: Added to the variance in norms.
            rotary_emb_dim: How many channels of a head turn with the position; all if None, or if a
                head has fewer.
            max_length: Positions run from 0 to `max_length - 1`.
            final_layer_without_normalization: Leave the norm before the logits out.
            mix_neighbours: See `NeighbourMixing`.
            tie_embeddings: Let logits be products with the embeddings of tokens.
        """
        super().__init__()
        self.num_layers, self.nhead, self.d_head = num_layers, nhead, d_model // nhead
        self.max_length = max_length
        self.embedding = TokenEmbedding(
            num_embeddings,
            d_model,
            padding_idx=padding_idx,
            mix_neighbours=mix_neighbours,
            is_causal=self.is_causal,
            is_tied=tie_embeddings,
        )
        self.layers = RotaryTransformerLayerList(
            num_layers,
            d_model=d_model,
            nhead=nhead,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            activation=activation,
            layer_norm_eps=layer_norm_eps,
        )
        d_rotary = min(rotary_emb_dim or self.d_head, self.d_head)
        self.rotary = RotaryEmbedding(d_rotary, max_length=max_length)
        self.final_layer = RotaryTransformerFinalLayer(
            d_model,
            num_embeddings,
            layer_norm_eps=layer_norm_eps,
            use_normalization=not final_layer_without_normalization,
            is_tied=tie_embeddings,
        )

    def run(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | BlockMask | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "picked_pos d_vocab"]:
        """Compute logits.

        Args:
            x_t: Token ids.
            attention_mask: (batch, key_pos), the tokens that are no padding; or (batch, query_pos,
                key_pos); or the block mask of packed documents; or None if nothing is hidden.
                With a cache, its keys are those that the cache holds and the new ones.
            positions: Where tokens stand; counted over the tokens that are no padding if None.
            where: The positions whose logits are wanted, in any row; all if None.
            cache: The state after the tokens before `x_t`, which is brought up to date.

        Returns:
            Logits of every position, or of those asked for, in reading order.

        Raises:
            ArgumentError: The text is longer than `max_length`, or a mask has a wrong form.
        """
        return self.read_out(self.encode(x_t, attention_mask, positions, where=where, cache=cache))

    def encode(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | BlockMask | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"]:
        """Compute the residual stream after all layers, for heads of a family's own; see `run`."""
        n_tokens = x_t.shape[1]
        if cache is not None:
            attention_mask = _mask_of_held(attention_mask, x_t, cache)
        positions, places = resolve_positions(attention_mask, positions, n_tokens)
        hidden = self.embedding(x_t, places, cache=cache)
        rotation = self.rotary(positions, n_tokens)
        mask, is_causal = attention_mask, False
        if not isinstance(mask, BlockMask):
            mask, is_causal = attention_mask_of(mask, n_tokens, is_causal=self.is_causal)
        hidden = self.layers(hidden, rotation, mask, is_causal=is_causal, cache=cache, where=where)
        if cache is not None:
            cache.advance(n_tokens)
        return hidden

    def read_out(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape d_vocab"]:
        """Return the logits of what `encode` computed, at any positions."""
        return self.final_layer(hidden, self.embedding.tokens.weight)

    def describe_architecture(self) -> Mapping[str, Any]:
        """Say where the parts are, see `pellucid.core.DescribedModel`: a bridge can hook them."""
        return describe_network(self, is_masked=not self.is_causal, unembed=True, gated=False)

    def new_cache(self, n_rows: int, max_length: int) -> KeyValueCache:
        """Return an empty cache for texts of up to `max_length` tokens.

        Raises:
            ArgumentError: The model is not causal: what it makes of a token depends on later ones.
        """
        if not self.is_causal:
            message = (
                f"{type(self).__name__} is not causal; there is nothing that it could keep "
                "of a text that goes on"
            )
            raise ArgumentError(message)
        weight = self.embedding.tokens.weight
        shape = (self.num_layers, n_rows, self.nhead, self.d_head)
        return KeyValueCache(shape, max_length=max_length, dtype=weight.dtype, device=weight.device)


def positions_of(
    key_mask: Bool[Tensor, "batch pos"] | Integer[Tensor, "batch pos"],
) -> Integer[Tensor, "batch pos"]:
    """Count the tokens that are no padding: the first of them stands at position 0."""
    return (key_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _mask_of_held(
    mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | BlockMask | None,
    x_t: Integer[Tensor, "batch pos"],
    cache: KeyValueCache,
) -> Bool[Tensor, "batch key_pos"] | Integer[Tensor, "batch key_pos"]:
    """Return which of the tokens held and new are no padding.

    Raises:
        ArgumentError: The mask says something else, or the cache has no room left.
    """
    n_keys = cache.length + x_t.shape[1]
    if n_keys > cache.max_length:
        message = (
            f"the cache holds {cache.length} tokens and has no room for {x_t.shape[1]} more; "
            f"build it for more than {cache.max_length}"
        )
        raise ArgumentError(message)
    if mask is None:
        return torch.ones(x_t.shape[0], n_keys, dtype=torch.bool, device=x_t.device)
    if isinstance(mask, BlockMask) or mask.shape != (x_t.shape[0], n_keys):
        message = (
            "with a cache, the attention mask says which tokens are no padding, of those held and "
            f"of the new ones: give one of shape {(x_t.shape[0], n_keys)!r}"
        )
        raise ArgumentError(message)
    return mask


def resolve_positions(
    mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | BlockMask | None,
    positions: Integer[Tensor, "batch pos"] | None,
    n_tokens: int,
) -> tuple[Integer[Tensor, "batch pos"] | None, Integer[Tensor, "batch pos"] | None]:
    """Return positions for rotation, and the same with padding set apart for neighbours."""
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return positions, positions
    if mask.device.type == "cpu" and mask.shape[1] == n_tokens and bool(mask.all()):
        return positions, positions
    own = mask[:, -n_tokens:].bool()
    if positions is None:
        positions = positions_of(mask)[:, -n_tokens:]
    return positions, positions.masked_fill(~own, -2)
