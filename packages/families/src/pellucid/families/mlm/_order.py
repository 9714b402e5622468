"""Which masks are filled next: confidences, and how many of the best are taken."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int64
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


def rank(
    doubts: Float[Tensor, "batch pos"], is_open: Bool[Tensor, "batch pos"]
) -> Int64[Tensor, "batch pos"]:
    """Return the place of each position in its row, surest first; the leftmost of equals first.

    Positions that are not open come after all that are.
    """
    order = doubts.masked_fill(~is_open, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def count_within(
    doubts: Float[Tensor, "batch pos"],
    is_open: Bool[Tensor, "batch pos"],
    threshold: float,
    *,
    spares_largest: bool,
) -> Int64[Tensor, " batch"]:
    """Return how many of the surest positions can be filled at once, at least one.

    Args:
        doubts: How unsure the network is of each position.
        is_open: Which positions there are to fill.
        threshold: What the doubts of those taken stay below, in sum.
        spares_largest: Leave the largest of them out of the sum. Where doubts are entropies, the
            rest bounds what is lost by filling positions independently (Ben-Hamu et al. 2025,
            arXiv:2505.24857), but a token that is a guess may be taken along with sure ones, though
            later it would be none. With it, where doubts are chances to be wrong, the sum bounds
            the chance that any of the tokens taken is wrong.
    """
    ordered = doubts.masked_fill(~is_open, torch.inf).sort(dim=1, stable=True).values
    total = ordered.cumsum(dim=1)
    is_taken = ((total - ordered if spares_largest else total) < threshold) & ordered.isfinite()
    return is_taken.long().cumprod(dim=1).sum(dim=1).clamp(min=1)


def share_of_steps(
    n_open: Int64[Tensor, " batch"],
    n_open_in_block: Int64[Tensor, " batch"],
    n_blocks: Int64[Tensor, " batch"],
    steps_left: int,
) -> Int64[Tensor, " batch"]:
    """Return how many positions of the present block to fill now, so that no step is empty.

    Steps are given to blocks by how much is open in them, at least one to each block to come. With
    one block it is the masks over the steps, rounded up: a row that has fewer masks than steps
    fills one in each of its own.
    """
    own = steps_left * n_open_in_block // n_open.clamp(min=1)
    most = (steps_left - n_blocks + 1).clamp(min=1)
    own = torch.minimum(own.clamp(min=1), most)
    return (n_open_in_block + own - 1) // own
