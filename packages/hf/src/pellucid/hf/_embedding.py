"""The embeddings that a model makes of its tokens, without a needless second copy."""

import weakref
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core import RequirementError

# A scale is believed if it gives the same bits as the module for so many rows.
_N_SAMPLED = 64


class EmbeddingTable:
    """The effective embedding of each token: what the embedding module makes of its id.

    A module that looks up and scales, such as Gemma's, is read as its own weight times the scale,
    and one that does anything else is asked for rows; neither is kept a second time.

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
        self._scale = None if self._is_plain else _find_scale(layer)
        self._matrix: weakref.ref[Tensor] | None = None
        self._version = -1

    @property
    def n_rows(self) -> int:
        """The number of rows, padded ones included."""
        return self._layer.num_embeddings

    @property
    def matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """All rows; the module's own weight if it is a plain table.

        Else it is computed, and kept for as long as somebody holds it.
        """
        if self._is_plain:
            return self._layer.weight.detach()
        matrix = None if self._matrix is None else self._matrix()
        version = self._layer.weight._version
        if matrix is None or version != self._version:
            matrix = self.rows(0, self.n_rows)
            self._matrix, self._version = weakref.ref(matrix), version
        return matrix

    def rows(self, start: int, stop: int) -> Float[Tensor, "_ d_model"]:
        """Return some rows; a view where the table is plain."""
        if self._is_plain:
            return self._layer.weight.detach()[start:stop]
        if self._scale is not None:
            return self._layer.weight.detach()[start:stop] * self._scale
        ids = torch.arange(start, stop, device=self._layer.weight.device)
        with torch.no_grad():
            return self._layer(ids)


def _find_scale(layer: nn.Embedding) -> Tensor | float | None:
    """Return what a module multiplies its rows with, None if it does anything else."""
    given: Any = getattr(layer, "embed_scale", None)
    if given is None or layer.max_norm is not None:
        return None
    # As transformers does: rounded to the type of the weights before it is applied.
    scale = given.to(layer.weight) if isinstance(given, Tensor) else given
    sample = torch.linspace(0, layer.num_embeddings - 1, _N_SAMPLED).long().unique()
    sample = sample.to(layer.weight.device)
    with torch.no_grad():
        is_exact = torch.equal(layer(sample), layer.weight[sample] * scale)
    return scale if is_exact else None
