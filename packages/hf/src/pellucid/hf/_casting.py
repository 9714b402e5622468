"""Triggers of one model as those of another, by way of their text."""

from collections import Counter

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from pellucid.core import ArgumentError, TokenAccessMixin, as_tokenizer


def cast_to_model_tokenizer(
    old_ids: Int[Tensor, "n_candidates trigger_pos"],
    model_from: TokenAccessMixin,
    model_to: TokenAccessMixin,
) -> tuple[Int[Tensor, "_ trigger_pos"], Int64[Tensor, "_ _"]]:
    """Translate triggers from one model's tokens to another's, all to one length.

    That length is the most frequent one, the shorter of equally frequent ones. Triggers that come
    out shorter are left out, those that come out longer are cut.

    Args:
        old_ids: Token ids of `model_from`, of shape (n_candidates, trigger_pos).
        model_from: The model whose tokens these are.
        model_to: The model whose tokens are wanted.

    Returns:
        The rows of `old_ids` that are kept, and their translations, int64, both on the device of
        `old_ids`.

    Raises:
        ArgumentError: (a ValueError) If there is no candidate, or if most of them have no text.
    """
    texts = as_tokenizer(model_from.tokenizer).batch_decode(old_ids.tolist())
    rows = as_tokenizer(model_to.tokenizer).batch_encode(texts)
    counts = Counter(len(row) for row in rows)
    length = min(counts, key=lambda n: (-counts[n], n), default=0)
    if not length:
        raise ArgumentError(
            f"of {len(rows)} candidates, {counts[0]} have no tokens in the other model. "
            "Give candidates that stand for some text."
        )
    kept = [i for i, row in enumerate(rows) if len(row) >= length]
    new_ids = torch.tensor([rows[i][:length] for i in kept], device=old_ids.device)
    return old_ids[kept], new_ids
