"""How much of what a head writes another one reads."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.bridge._weights._factored import FactoredMatrix
from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompositionScores:
    """Scores of all pairs of heads.

    Attributes:
        scores: Of shape (layer, head, layer, head): of the head that writes, then of the one that
            reads; 0 unless the first is of an earlier layer.
        layer_indices: The blocks that the axes of layers stand for: those with attention.
        head_labels: "L0H0" and so on, for each layer and head.
    """

    scores: Float[Tensor, "layer head layer head"]
    layer_indices: list[int]
    head_labels: list[str]

    def top(self, k: int = 10) -> list[tuple[str, str, float]]:
        """Return the k largest scores with the labels of the heads that write and read."""
        n = len(self.head_labels)
        best = self.scores.reshape(-1).topk(min(k, n * n))
        pairs = [divmod(int(place), n) for place in best.indices]
        return [
            (self.head_labels[i], self.head_labels[j], float(value))
            for (i, j), value in zip(pairs, best.values, strict=True)
        ]


def composition_scores(
    left: FactoredMatrix, right: FactoredMatrix, broadcast_dims: bool = True
) -> Float[Tensor, "*rest"]:
    """Return the norm of products of matrices, relative to the product of their norms.

    Elhage et al. 2021, "A mathematical framework for transformer circuits".

    Args:
        left: What writes, such as the OV circuits of heads.
        right: What reads.
        broadcast_dims: Whether each matrix on the left meets each one on the right, so that the
            result has the leading axes of both, or the leading axes broadcast.

    Raises:
        ArgumentError: (a ValueError) If the left ones have other columns than the right ones rows.
    """
    if left.rdim != right.ldim:
        raise ArgumentError(
            f"the left matrices have {left.rdim} columns and the right ones {right.ldim} rows."
        )
    a, b = _reduce(left)
    c, d = _reduce(right.T)
    c, d = d.mT, c.mT
    if broadcast_dims:
        spare = (None,) * (right.ndim - 2)
        lead = (slice(None),) * (left.ndim - 2)
        a, b = a[(*lead, *spare)], b[(*lead, *spare)]
    made = torch.linalg.matrix_norm(a @ (b @ c) @ d)
    sizes = torch.linalg.matrix_norm(a @ b) * torch.linalg.matrix_norm(c @ d)
    return torch.where(sizes > 0, made / sizes.clamp(min=torch.finfo(made.dtype).tiny), 0.0)


def score_all_pairs(
    writing: FactoredMatrix, reading: FactoredMatrix
) -> Float[Tensor, "layer head layer head"]:
    """Return the scores of all pairs of heads, 0 unless the first is of an earlier layer.

    Args:
        writing: Of shape (layer, head, d_model, d_model).
        reading: Likewise.
    """
    n_layers, n_heads = writing.shape[:2]
    scores = writing.A.new_zeros(n_layers, n_heads, n_layers, n_heads, dtype=torch.float32)
    # A layer at a time: all pairs at once would need (layer * head * d_head)^2 numbers.
    for layer in range(n_layers - 1):
        found = composition_scores(writing[layer], reading[layer + 1 :])
        scores[layer, :, layer + 1 :] = found.to(scores.dtype)
    return scores


def _reduce(matrix: FactoredMatrix) -> tuple[Tensor, Tensor]:
    """Return factors with the same norms of products on the right: the left one is small."""
    precise = torch.promote_types(matrix.A.dtype, torch.float32)
    small = torch.linalg.qr(matrix.A.to(precise), mode="r").R
    return small, matrix.B.to(precise)
