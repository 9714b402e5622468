"""How unsure a network is of what stands at a position."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

Doubt = Callable[[Float[Tensor, "*shape d_vocab"]], Float[Tensor, "*shape"]]
"""How unsure the network is of a token, from its probabilities; 0 where it is certain."""


def doubt_of_best(probs: Float[Tensor, "*shape d_vocab"]) -> Float[Tensor, "*shape"]:
    """Return the probability that the best token is wrong."""
    return 1 - probs.amax(dim=-1)


def doubt_between_best(probs: Float[Tensor, "*shape d_vocab"]) -> Float[Tensor, "*shape"]:
    """Return one minus the margin of the best token over the second best."""
    best = probs.topk(min(2, probs.shape[-1]), dim=-1).values
    return 1 - (best[..., 0] - best[..., 1:].sum(dim=-1))


def entropy(probs: Float[Tensor, "*shape d_vocab"]) -> Float[Tensor, "*shape"]:
    """Return the entropy, in nats."""
    return -torch.xlogy(probs, probs).sum(dim=-1)


DOUBTS: Mapping[str, Doubt] = {
    "top_prob": doubt_of_best,
    "prob_diff": doubt_between_best,
    "entropy": entropy,
}
"""The confidences that a sampler can order positions by."""


def doubts_at(
    where: Bool[Tensor, "batch pos"],
    logits: Float[Tensor, "picked_pos d_vocab"],
    *,
    confidence: str,
    temperature: float,
) -> Float64[Tensor, "batch pos"]:
    """Return how unsure the network is of some positions, and 0 at all others.

    Args:
        where: The positions.
        logits: Theirs, in reading order.
        confidence: One of `DOUBTS`.
        temperature: Divides logits.
    """
    found = DOUBTS[confidence]((logits / temperature).softmax(dim=-1)).double()
    doubts = torch.zeros(where.shape, dtype=found.dtype, device=found.device)
    return doubts.masked_scatter(where, found)
