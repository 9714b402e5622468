"""The embeddings that a model makes of its tokens, without a needless second copy."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core import RequirementError


class EmbeddingTable:
    """The effective embedding of each token: what the embedding module makes of its id.

    Some modules do more than look up, such as Gemma's, which scale; rows of those are computed when
    they are asked for.

    Args:
        layer: A model's token embedding module.

    Raises:
        RequirementError: (a TypeError) If it is not an `nn.Embedding`, and so is no linear map of
            one-hot tokens.
    """

    def __init__(self, layer: nn.Module) -> None:
        if not isinstance(layer, nn.Embedding):
            raise RequirementError(
                f"token embeddings must be an nn.Embedding, got {type(layer).__name__}. Gradients "
                "with regard to tokens need a table of embeddings."
            )
        self._layer = layer
        self._is_plain = type(layer).forward is nn.Embedding.forward and layer.max_norm is None
        self._matrix: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """The number of rows, padded ones included."""
        return self._layer.num_embeddings

    @property
    def matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """All rows; the module's own weight if it is a plain table, else computed once."""
        if self._is_plain:
            return self._layer.weight.detach()
        if self._matrix is None:
            self._matrix = self.rows(0, self.n_rows)
        return self._matrix

    def rows(self, start: int, stop: int) -> Float[Tensor, "_ d_model"]:
        """Return some rows; a view where the table is plain."""
        if self._is_plain:
            return self._layer.weight.detach()[start:stop]
        ids = torch.arange(start, stop, device=self._layer.weight.device)
        with torch.no_grad():
            return self._layer(ids)
