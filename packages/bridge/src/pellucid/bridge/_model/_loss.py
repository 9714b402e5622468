"""Next-token loss and accuracy."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import boundary


@boundary
def lm_cross_entropy_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
) -> Float[Tensor, "*shape"]:
    """Return the cross-entropy of each token given those before it, in nats.

    Args:
        logits: Float, of shape (batch, pos, d_vocab); computed with in float32 at least.
        tokens: Int, of shape (batch, pos).
        attention_mask: 0 where a position is padding; predictions from and of those do not count.
        per_token: Whether to return each position's loss, of shape (batch, pos - 1), 0 where it
            does not count, instead of the mean.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probs = precise[:, :-1].log_softmax(-1)
    losses = -log_probs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    if attention_mask is None:
        return losses if per_token else losses.mean()
    counts = (attention_mask[:, 1:] * attention_mask[:, :-1]).bool()
    losses = losses.masked_fill(~counts, 0.0)
    return losses if per_token else losses.sum() / counts.sum().clamp(min=1)


@boundary
def lm_accuracy(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    per_token: bool = False,
) -> Float[Tensor, "*shape"]:
    """Return how often the likeliest token is the next one, or for each position whether it is.

    Args:
        logits: Float, of shape (batch, pos, d_vocab).
        tokens: Int, of shape (batch, pos).
        per_token: Whether to return 1 or 0 for each position, of shape (batch, pos - 1).
    """
    hits = (logits[:, :-1].argmax(-1) == tokens[:, 1:]).float()
    return hits if per_token else hits.mean()


@boundary
def label_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    per_token: bool = False,
) -> Float[Tensor, "*shape"]:
    """Return the cross-entropy of each position's label, in nats.

    Args:
        logits: Float, of shape (batch, pos, d_vocab); computed with in float32 at least.
        labels: Int, of shape (batch, pos); negative where a position does not count.
        per_token: Whether to return each position's loss, of shape (batch, pos), 0 where it does
            not count, instead of the mean.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    counts = labels >= 0
    chosen = labels.clamp(min=0).unsqueeze(-1)
    losses = -precise.log_softmax(-1).gather(-1, chosen).squeeze(-1).masked_fill(~counts, 0.0)
    return losses if per_token else losses.sum() / counts.sum().clamp(min=1)
