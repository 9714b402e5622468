"""Finds the tokens whose embeddings point most nearly where given vectors do."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_CHUNK = 16_384


def find_nearest(
    vectors: Float[Tensor, "trigger_pos d_model"],
    table: Float[Tensor, "d_vocab d_model"],
    allowed_ids: Int64[Tensor, " n_allowed"],
) -> Int64[Tensor, " trigger_pos"]:
    """Return for each vector the allowed token of the greatest cosine similarity.

    In float32, chunk by chunk: no normalized copy of the table is made.

    Args:
        vectors: The vectors, on the table's device.
        table: The embedding of each token.
        allowed_ids: The tokens to choose from, on the table's device.

    Returns:
        Token ids, of shape (trigger_pos,); of equals, the one that stands first in `allowed_ids`.
    """
    best_ids = allowed_ids[:1].repeat(len(vectors))
    best = torch.full((len(vectors),), -torch.inf, device=vectors.device)
    for ids in allowed_ids.split(_CHUNK):
        rows = table[ids].float()
        # The vectors' own lengths change no ranking.
        cosines = vectors.float() @ rows.mT / rows.norm(dim=-1).clamp_min(1e-12)
        values, columns = cosines.max(dim=-1)
        best_ids = torch.where(values > best, ids[columns], best_ids)
        best = torch.maximum(values, best)
    return best_ids
