"""Projections onto the probability simplex, and onto its points of limited entropy."""

import torch
from jaxtyping import Float
from torch import Tensor

_FLOOR = 1e-12


def project_on_simplex(points: Float[Tensor, "*shape k"]) -> Float[Tensor, "*shape k"]:
    """Return the nearest distribution to each point (Duchi et al. 2008).

    Args:
        points: Any points, along the last axis.

    Returns:
        Points without negative entries that sum to 1.
    """
    falling = points.sort(dim=-1, descending=True).values
    ranks = torch.arange(1, points.shape[-1] + 1, dtype=points.dtype)
    # What to take off all entries, if the so many greatest were those that stay positive.
    shifts = (falling.cumsum(dim=-1) - 1) / ranks
    n_positive = (falling > shifts).sum(dim=-1, keepdim=True).clamp_min(1)
    return (points - shifts.gather(-1, n_positive - 1)).clamp_min(0)


def project_on_entropy(
    probs: Float[Tensor, "*shape k"], strength: float
) -> Float[Tensor, "*shape k"]:
    """Push distributions away from the uniform one, until their entropy is small enough.

    The entropy is that of Tsallis with q = 2, the Gini index 1 - sum(p^2). Distributions over the
    entries that are positive now may have at most (1 - strength) of the greatest entropy that such
    distributions can have (Geisler et al. 2024, algorithm 3).

    Args:
        probs: Distributions, along the last axis.
        strength: From 0, which changes nothing, to 1, which leaves one entry, save between entries
            that are exactly alike.
    """
    support = probs > 0
    n_support = support.sum(dim=-1, keepdim=True)
    centre = support / n_support
    radius = (strength * (1 - 1 / n_support)).clamp_min(0).sqrt()
    distance = (probs - centre).norm(dim=-1, keepdim=True)
    pushed = project_on_simplex(centre + (probs - centre) * radius / distance.clamp_min(_FLOOR))
    return torch.where((distance >= radius) | (distance <= _FLOOR), probs, pushed)
