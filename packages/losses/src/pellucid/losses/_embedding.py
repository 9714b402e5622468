"""Losses over the vectors of an encoder."""

import dataclasses

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pellucid.core import BaseLoss, boundary
from pellucid.losses._token_nll import widen


class EmbeddingBasedLoss(BaseLoss):
    """Reads sentence embeddings."""


@dataclasses.dataclass
class SimilarityLoss(EmbeddingBasedLoss):
    """How far an embedding points from the target vector: the negated cosine, from -1 to 1."""

    @boundary
    def __call__(
        self,
        output_embeddings: Float[Tensor, "batch d_embed"],
        target_vectors: Float[Tensor, " d_embed"],
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            output_embeddings: The embeddings.
            target_vectors: The vector to approach; its length has no influence.

        Returns:
            Float, of shape (batch,); 0 where a vector is zero.
        """
        embeddings = widen(output_embeddings)
        return -cosine_similarity(embeddings, target_vectors.to(embeddings)[None], dim=-1)
