"""The layer of a rotary transformer."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from pellucid.core import ArgumentError
from pellucid.xlm.modules._cache import KeyValueCache
from pellucid.xlm.modules._masks import AttentionMask
from pellucid.xlm.modules._rotary import Rotation, rotate

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functools.partial(functional.gelu, approximate="tanh"),
}


class RotaryTransformerLayer(nn.Module):
    """Attention and a network, each with a norm before it and a residual stream around it.

    Weights start normal, scaled to the width they read; the two that write to the residual stream
    are smaller by the square root of how many do, so that its variance does not grow with depth.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int | None = None,
        *,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        num_layers: int = 1,
    ) -> None:
        """Build a layer of its own random weights.

        Args:
            d_model: Width of the residual stream, a multiple of `nhead`.
            nhead: Attention heads.
            dim_feedforward: Width of the network; four times `d_model` if None.
            dropout: Of attention weights and of what is added to the residual stream.
            activation: "relu", or "gelu" in its tanh form.
            layer_norm_eps: Added to the variance in norms.
            num_layers: How many layers write to the same residual stream.

        Raises:
            ArgumentError: The heads do not divide the width, or the activation is unknown.
        """
        super().__init__()
        if d_model % nhead:
            message = f"nhead={nhead!r} does not divide d_model={d_model!r}; choose one that does"
            raise ArgumentError(message)
        if activation not in _ACTIVATIONS:
            message = f"activation {activation!r} is unknown; use 'relu' or 'gelu'"
            raise ArgumentError(message)
        d_feedforward = dim_feedforward or 4 * d_model
        self.nhead, self.dropout = nhead, dropout
        self.activation = _ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.attn_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.attn_out = nn.Linear(d_model, d_model, bias=False)
        self.ff_in = nn.Linear(d_model, d_feedforward)
        self.ff_out = nn.Linear(d_feedforward, d_model)
        for linear in (self.attn_qkv, self.ff_in):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        for linear in (self.attn_out, self.ff_out):
            nn.init.normal_(linear.weight, std=(2 * num_layers * linear.in_features) ** -0.5)
        for linear in (self.ff_in, self.ff_out):
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotation: Rotation,
        mask: AttentionMask | BlockMask | None,
        *,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Add what the layer makes of the residual stream to it.

        Args:
            x: The residual stream.
            rotation: Angles of the tokens' positions.
            mask: Who attends to whom; None if all tokens do, up to `is_causal`.
            is_causal: Whether a token attends only up to itself, without a mask that says so.
            cache: Holds the keys and values before `x`, and receives those of `x`.
            layer: Which layer this is to the cache.
        """
        x = x + self._drop(self._attend(self.norm1(x), rotation, mask, is_causal, cache, layer))
        return x + self._drop(self.ff_out(self.activation(self.ff_in(self.norm2(x)))))

    def _attend(
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotation: Rotation,
        mask: AttentionMask | BlockMask | None,
        is_causal: bool,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Float[Tensor, "batch pos d_model"]:
        batch, pos, d_model = x.shape
        qkv = self.attn_qkv(x).view(batch, pos, 3, self.nhead, d_model // self.nhead)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        mixed = _attention(query, key, value, mask, is_causal, self.dropout * self.training)
        return self.attn_out(mixed.transpose(1, 2).reshape(batch, pos, d_model))

    def _drop(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class RotaryTransformerLayerList(nn.ModuleList):
    """Layers of one shape, each with random weights of its own.

    Args:
        num_layers: How many.
        settings: What else `RotaryTransformerLayer` takes.
    """

    def __init__(self, num_layers: int, **settings: Any) -> None:
        super().__init__(
            RotaryTransformerLayer(num_layers=num_layers, **settings) for _ in range(num_layers)
        )

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotation: Rotation,
        mask: AttentionMask | BlockMask | None,
        *,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Run the layers one after the other."""
        for index, layer in enumerate(self):
            x = layer(x, rotation, mask, is_causal=is_causal, cache=cache, layer=index)
        return x


def _attention(
    query: Float[Tensor, "batch head query_pos d_head"],
    key: Float[Tensor, "batch head key_pos d_head"],
    value: Float[Tensor, "batch head key_pos d_head"],
    mask: AttentionMask | BlockMask | None,
    is_causal: bool,
    dropout: float,
) -> Float[Tensor, "batch head query_pos d_head"]:
    if isinstance(mask, BlockMask):
        if dropout:
            message = "flex attention drops nothing out; set dropout=0, or use_flex_attn=False"
            raise ArgumentError(message)
        return _flex(query.is_cuda)(query, key, value, block_mask=mask)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
    )


@functools.cache
def _flex(is_compiled: bool) -> Callable[..., Tensor]:
    """Return flex attention, compiled where that makes it fast; uncompiled it is a reference."""
    return torch.compile(flex_attention) if is_compiled else flex_attention
