"""Layers of a transformer that is told the time."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

from pellucid.xlm.modules._conditioning import AdaLNModulations, modulate
from pellucid.xlm.modules._layer import RotaryTransformerLayer, pick, wanted_by_layer
from pellucid.xlm.modules._masks import AttentionMask
from pellucid.xlm.modules._rotary import Rotation


class DDiTLayer(RotaryTransformerLayer):
    """A rotary layer whose norms are shifted and scaled, and whose branches are gated, by a time.

    Both branches read the modulated norm of the residual stream and add to the stream itself, which
    no norm is ever put in place of. Gates start at zero, so that a new layer is the identity
    (Peebles & Xie 2023, arXiv:2212.09748).
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        d_cond: int,
        *,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-5,
        **settings: Any,
    ) -> None:
        """Build a layer of its own random weights.

        Args:
            d_model: See `RotaryTransformerLayer`.
            nhead: See `RotaryTransformerLayer`.
            d_cond: Width of the conditioning vectors.
            activation: "relu", or "gelu" in its tanh form.
            layer_norm_eps: Added to the variance in norms.
            settings: What else `RotaryTransformerLayer` takes.

        Raises:
            ArgumentError: The heads do not divide the width, or the activation is unknown.
        """
        super().__init__(
            d_model, nhead, activation=activation, layer_norm_eps=layer_norm_eps, **settings
        )
        # Shifts take the place of the norms' own biases.
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=False)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=False)
        self.modulations = AdaLNModulations(d_cond, d_model)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # it reads a time, keeps no cache
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotation: Rotation,
        mask: AttentionMask | BlockMask | None,
        conditioning: Float[Tensor, "batch d_cond"],
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"]:
        """Add what the layer makes of the residual stream to it.

        Args:
            x: The residual stream.
            rotation: Angles of the tokens' positions.
            mask: Who attends to whom; None if all tokens do.
            conditioning: What is known of each row's time.
            where: The positions that somebody reads, in any row; all if None.

        Returns:
            The residual stream, of all positions or of those in `where`, in reading order.
        """
        shift1, scale1, *later = self.modulations(conditioning)
        mixed = self._attend(
            modulate(self.norm1(x), shift1, scale1), rotation, mask, False, None, 0
        )
        if where is not None:
            x, mixed = pick(x, where), pick(mixed, where)
            later = pick_rows(later, where)
        gate1, shift2, scale2, gate2 = later
        x = torch.addcmul(x, gate1, self._drop(self.attn_out(mixed)))
        read = modulate(self.norm2(x), shift2, scale2)
        return torch.addcmul(x, gate2, self._drop(self.ff_out(self.activation(self.ff_in(read)))))


class DDiTLayerList(nn.ModuleList):
    """Layers of one shape, each with random weights of its own.

    Args:
        num_layers: How many.
        settings: What else `DDiTLayer` takes.
    """

    def __init__(self, num_layers: int, **settings: Any) -> None:
        super().__init__(DDiTLayer(num_layers=num_layers, **settings) for _ in range(num_layers))

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotation: Rotation,
        mask: AttentionMask | BlockMask | None,
        conditioning: Float[Tensor, "batch d_cond"],
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"]:
        """Run the layers one after the other; see `wanted_by_layer` for `where`."""
        for layer, asked in zip(self, wanted_by_layer(self, where), strict=True):
            x = layer(x, rotation, mask, conditioning, where=asked)
        return x if where is None or x.ndim == 2 else pick(x, where)


def pick_rows(
    vectors: Sequence[Float[Tensor, "batch 1 d_model"]], where: Bool[Tensor, "batch pos"]
) -> list[Float[Tensor, "picked_pos d_model"]]:
    """Return, for each of some positions of any row, the vectors of its row."""
    rows = where.nonzero()[:, 0]
    return [vector[:, 0].index_select(0, rows) for vector in vectors]


class DDiTFinalLayer(nn.Module):
    """A modulated norm and the projection to logits.

    The projection starts at zero, so that a new network finds every token as likely as any other
    and its cross-entropy is ln(d_vocab). A tied projection is the embedding's own matrix and starts
    as that does.
    """

    def __init__(
        self,
        d_model: int,
        d_vocab: int,
        d_cond: int,
        *,
        layer_norm_eps: float = 1e-5,
        is_tied: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=False)
        self.modulations = AdaLNModulations(d_cond, d_model, 2)
        # A tied matrix belongs to the embedding alone, so that it is saved once.
        self.linear = None if is_tied else nn.Linear(d_model, d_vocab, bias=False)
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"],
        conditioning: Float[Tensor, "batch d_cond"],
        embeddings: Float[Tensor, "d_vocab d_model"],
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Return logits.

        Args:
            x: The residual stream, of all positions or of those in `where` alone.
            conditioning: What is known of each row's time.
            embeddings: The matrix to project with if the layer has none of its own.
            where: The positions whose logits are wanted; all if None.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given.
        """
        shift, scale = self.modulations(conditioning)
        if where is not None:
            x = pick(x, where) if x.ndim == 3 else x
            shift, scale = pick_rows([shift, scale], where)
        weight = embeddings if self.linear is None else self.linear.weight
        return functional.linear(modulate(self.norm(x), shift, scale), weight)
