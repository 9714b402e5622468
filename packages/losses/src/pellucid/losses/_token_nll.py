"""Negative log-likelihoods of given tokens, and means that leave positions out."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from pellucid.core import ArgumentError

_MAX_COPIED = 2**22

IGNORE_INDEX = -100
"""The token id that marks a target position as not counted."""


def widen(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return values in float32, or unchanged where they are wider already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def masked_mean(
    values: Float[Tensor, "... target_pos"], mask: Bool[Tensor, "*#batch target_pos"]
) -> Float[Tensor, "..."]:
    """Return the mean over the last axis of what a mask admits; 0 where it admits nothing.

    What is masked out has no influence, not even when it is infinite or NaN.

    Args:
        values: Float, of shape (..., target_pos).
        mask: True where a position counts; broadcast over the leading axes.
    """
    kept = torch.where(mask, values, 0)
    return kept.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def token_nll(
    logits: Float[Tensor, "batch target_pos d_vocab"],
    token_ids: Int[Tensor, "#batch target_pos"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "batch target_pos"]:
    """Return -log softmax(logits / temperature) of each token, in nats, in float32 or wider.

    Args:
        logits: Float, of shape (batch, target_pos, d_vocab).
        token_ids: The tokens, int, of shape (batch, target_pos) or (1, target_pos).
        temperature: Divides the logits.

    Returns:
        Float, of shape (batch, target_pos); 0 where the token is `IGNORE_INDEX`.
    """
    ids = token_ids.to(logits.device, torch.int64).expand(logits.shape[:2])
    # cross_entropy copies its logits; without a gradient, a part of them at a time is enough.
    size = len(ids.flatten()) if logits.requires_grad else _MAX_COPIED // logits.shape[-1]
    parts = zip(
        logits.flatten(0, 1).split(max(size, 1)), ids.flatten().split(max(size, 1)), strict=True
    )
    nll = torch.cat([_nll(*part, temperature) for part in parts])
    return nll.unflatten(0, ids.shape)


def _nll(
    logits: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, " batch"], temperature: float
) -> Float[Tensor, " batch"]:
    scaled = widen(logits)
    if temperature != 1.0:  # a division copies a vocabulary-sized tensor
        scaled = scaled / temperature
    return cross_entropy(scaled, ids, reduction="none", ignore_index=IGNORE_INDEX)


def gather_tokens(
    logits: Float[Tensor, "batch target_pos d_vocab"], token_ids: Int[Tensor, " target_pos"]
) -> Float[Tensor, "batch target_pos"]:
    """Return the logit of each token, in float32 or wider; that of token 0 where it is ignored."""
    ids = token_ids.to(logits.device, torch.int64).clamp(min=0).expand(logits.shape[:2])
    return widen(logits.gather(-1, ids[..., None]).squeeze(-1))


def check_positive(name: str, value: float) -> None:
    """Refuse a hyperparameter that is not a positive number.

    Raises:
        ArgumentError: (a ValueError) If it is zero, negative or NaN.
    """
    if not value > 0:
        raise ArgumentError(f"{name} must be positive, got {value!r}.")
