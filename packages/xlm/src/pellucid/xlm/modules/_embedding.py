"""Tokens as vectors."""

from jaxtyping import Float, Integer
from torch import Tensor, nn

from pellucid.xlm.modules._cache import KeyValueCache
from pellucid.xlm.modules._neighbours import NeighbourMixing


class TokenEmbedding(nn.Module):
    """Look tokens up, and optionally mix each with its neighbours.

    Embeddings start with unit variance. Where logits are made of the same matrix, it starts with
    unit norm instead, and what is looked up is scaled to unit variance.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        *,
        padding_idx: int | None = 0,
        mix_neighbours: bool = False,
        is_causal: bool = False,
        is_tied: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_embeddings, d_model, padding_idx=padding_idx)
        self.neighbours = NeighbourMixing(d_model, is_causal=is_causal) if mix_neighbours else None
        self.scale = d_model**0.5 if is_tied else 1.0
        self.tokens.weight.data.div_(self.scale)

    def forward(
        self,
        ids: Integer[Tensor, "batch pos"],
        positions: Integer[Tensor, "batch pos"] | None = None,
        *,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Embed.

        Args:
            ids: Token ids.
            positions: Where they stand; 0, 1, 2, ... if None.
            cache: See `NeighbourMixing`.
        """
        x = self.tokens(ids) * self.scale
        return x if self.neighbours is None else self.neighbours(x, positions, cache=cache)
