"""The backbone of families with noise levels: token ids and a time in, logits out."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pellucid.xlm.contracts import Model
from pellucid.xlm.modules._conditioning import TimestepEmbedder
from pellucid.xlm.modules._ddit import DDiTFinalLayer, DDiTLayerList
from pellucid.xlm.modules._description import describe_network
from pellucid.xlm.modules._embedding import TokenEmbedding
from pellucid.xlm.modules._masks import attention_mask_of
from pellucid.xlm.modules._rotary import RotaryEmbedding
from pellucid.xlm.modules._transformer import resolve_positions


class DDiT(Model):
    """A transformer that sees the whole text, knows positions by rotation, and is told a time.

    A family derives its model from it and says what the time is. Heads of its own read `encode`.

    Attributes:
        d_cond: Width of the conditioning vectors.
        max_length: The longest text, in tokens.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        *,
        d_cond: int = 128,
        padding_idx: int | None = 0,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-5,
        rotary_emb_dim: int | None = 64,
        max_length: int = 1024,
        mix_neighbours: bool = False,
        tie_embeddings: bool = False,
    ) -> None:
        """Build the network with random weights from torch's own generator.

        Args:
            num_embeddings: Size of the vocabulary.
            d_model: Width of the residual stream.
            num_layers: Layers.
            nhead: Attention heads of each.
            d_cond: Width of what layers are told about the time.
            padding_idx: The id whose embedding stays zero, or None.
            dim_feedforward: Width of a layer's network; four times `d_model` if None.
            dropout: Of attention weights and of what is added to the residual stream.
            activation: "relu" or "gelu".
            layer_norm_eps: Added to the variance in norms.
            rotary_emb_dim: How many channels of a head turn with the position; all if None, or if a
                head has fewer.
            max_length: Positions run from 0 to `max_length - 1`.
            mix_neighbours: See `NeighbourMixing`.
            tie_embeddings: Let logits be products with the embeddings of tokens; a new network then
                does not find all tokens equally likely.
        """
        super().__init__()
        self.d_cond, self.max_length = d_cond, max_length
        self.embedding = TokenEmbedding(
            num_embeddings,
            d_model,
            padding_idx=padding_idx,
            mix_neighbours=mix_neighbours,
            is_tied=tie_embeddings,
        )
        self.timestep = TimestepEmbedder(d_cond)
        self.layers = DDiTLayerList(
            num_layers,
            d_model=d_model,
            nhead=nhead,
            d_cond=d_cond,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            activation=activation,
            layer_norm_eps=layer_norm_eps,
        )
        d_head = d_model // nhead
        self.rotary = RotaryEmbedding(min(rotary_emb_dim or d_head, d_head), max_length=max_length)
        self.final_layer = DDiTFinalLayer(
            d_model, num_embeddings, d_cond, layer_norm_eps=layer_norm_eps, is_tied=tie_embeddings
        )

    def run(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | BlockMask | None,
        positions: Integer[Tensor, "batch pos"] | None,
        conditioning: Float[Tensor, "batch d_cond"],
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "picked_pos d_vocab"]:
        """Compute logits.

        Args:
            x_t: Token ids.
            attention_mask: (batch, key_pos), the tokens that are no padding; or (batch, query_pos,
                key_pos); or the block mask of packed documents; or None if nothing is hidden.
            positions: Where tokens stand; counted over the tokens that are no padding if None.
            conditioning: What is known of each row's time, as `timestep` makes it.
            where: The positions whose logits are wanted, in any row; all if None.

        Returns:
            Logits of every position, or of those asked for, in reading order.

        Raises:
            ArgumentError: The text is longer than `max_length`, or a mask has a wrong form.
        """
        hidden = self.encode(x_t, attention_mask, positions, conditioning, where=where)
        return self.read_logits(hidden, conditioning, where=where)

    def encode(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | BlockMask | None,
        positions: Integer[Tensor, "batch pos"] | None,
        conditioning: Float[Tensor, "batch d_cond"],
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"]:
        """Return the residual stream after the last layer, which every head reads.

        Args:
            x_t: Token ids.
            attention_mask: See `run`.
            positions: See `run`.
            conditioning: See `run`.
            where: The positions that heads read, in any row; all if None.
        """
        n_tokens = x_t.shape[1]
        positions, places = resolve_positions(attention_mask, positions, n_tokens)
        hidden = self.embedding(x_t, places)
        mask = attention_mask
        if not isinstance(mask, BlockMask):
            mask, _ = attention_mask_of(mask, n_tokens, is_causal=False)
        rotation = self.rotary(positions, n_tokens)
        return self.layers(hidden, rotation, mask, conditioning, where=where)

    def read_logits(
        self,
        hidden: Float[Tensor, "batch pos d_model"] | Float[Tensor, "picked_pos d_model"],
        conditioning: Float[Tensor, "batch d_cond"],
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "picked_pos d_vocab"]:
        """Return the logits of what `encode` made, of every position or of those asked for.

        Args:
            hidden: Of all positions, or of those in `where` alone.
            conditioning: See `run`.
            where: The positions whose logits are wanted; all if None.
        """
        weight = self.embedding.tokens.weight
        return self.final_layer(hidden, conditioning, weight, where=where)

    def describe_architecture(self) -> Mapping[str, Any]:
        """Say where the parts are, see `pellucid.core.DescribedModel`: a bridge can hook them."""
        return describe_network(self, is_masked=True, unembed=False, gated=True)
