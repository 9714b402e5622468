"""The layer of a rotary transformer."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
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
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"]:
        """Add what the layer makes of the residual stream to it.

        Args:
            x: The residual stream.
            rotation: Angles of the tokens' positions.
            mask: Who attends to whom; None if all tokens do, up to `is_causal`.
            is_causal: Whether a token attends only up to itself, without a mask that says so.
            cache: Holds the keys and values before `x`, and receives those of `x`.
            layer: Which layer this is to the cache.
            where: The positions that somebody reads, in any row; all if None.

        Returns:
            The residual stream, of all positions or of those in `where`, in reading order.
        """
        mixed = self._attend(self.norm1(x), rotation, mask, is_causal, cache, layer)
        if where is not None:
            x, mixed = pick(x, where), pick(mixed, where)
        x = x + self._drop(self.attn_out(mixed))
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
        return mixed.transpose(1, 2).reshape(batch, pos, d_model)

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
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"]:
        """Run the layers one after the other; see `wanted_by_layer` for `where`."""
        told = wanted_by_layer(self, where)
        for index, (layer, asked) in enumerate(zip(self, told, strict=True)):
            x = layer(x, rotation, mask, is_causal=is_causal, cache=cache, layer=index, where=asked)
        return x if where is None or x.ndim == 2 else pick(x, where)


def wanted_by_layer(
    layers: nn.ModuleList, where: Bool[Tensor, "batch pos"] | None
) -> list[Bool[Tensor, "batch pos"] | None]:
    """Return which positions each layer is asked for; None is all.

    All layers but the last are read at every position, by the attention of the next. Of the last
    one nobody reads more than `where`, unless hooks look at what it does.
    """
    told: list[Tensor | None] = [None] * len(layers)
    if told and where is not None and not any(map(_is_watched, layers[-1].modules())):
        told[-1] = where
    return told


def pick(
    x: Float[Tensor, "batch pos d_model"], where: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "picked_pos d_model"]:
    """Return the vectors at some positions of any row, in reading order."""
    # An index's gradient is several times faster than a mask's.
    return x.flatten(0, 1).index_select(0, where.flatten().nonzero()[:, 0])


def _is_watched(module: nn.Module) -> bool:
    # A bridge may also put another forward in an instance.
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))  # pyright: ignore[reportPrivateUsage]  # torch has no public way to ask


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
