"""Who attends to whom: masks in the cheapest form that says it."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Integer
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from pellucid.core import ArgumentError

AttentionMask = Bool[Tensor, "#batch 1 #query_pos key_pos"]
"""True where a query attends to a key; the form that PyTorch's attention takes."""

MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a pair is seen, of (batch, head, query, key), as flex attention asks for it."""


def attention_mask_of(
    mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | None, n_queries: int, *, is_causal: bool
) -> tuple[AttentionMask | None, bool]:
    """Bring a mask into the form that attention takes, or do without one.

    Without a mask, attention runs its fastest kernels; a mask of keys alone is broadcast over
    queries and never written out.

    Args:
        mask: (batch, key_pos), the keys that count; or (batch, query_pos, key_pos); or None if as
            many keys as queries count.
        n_queries: How many tokens attend; the last of the keys are theirs.
        is_causal: Whether a query attends only to keys up to its own.

    Returns:
        The mask, or None where all keys count; and whether attention must still be told that it is
        causal.

    Raises:
        ArgumentError: The mask has neither two nor three axes.
    """
    if mask is None:
        return None, is_causal
    mask = mask.bool()
    if mask.ndim not in (2, 3):
        message = (
            f"an attention mask of shape {tuple(mask.shape)!r} is neither (batch, key_pos) "
            "nor (batch, query_pos, key_pos); give one of these"
        )
        raise ArgumentError(message)
    n_keys = mask.shape[-1]
    is_causal = is_causal and n_queries > 1
    # Asking a GPU whether all keys count would wait for it, which costs more than it saves.
    is_full = mask.device.type == "cpu" and mask.ndim == 2 and bool(mask.all())
    if is_full and (n_keys == n_queries or not is_causal):
        return None, is_causal
    wide = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    if not is_causal:
        return wide, False
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=mask.device)
    past = ones.tril(n_keys - n_queries)
    itself = past.triu(n_keys - n_queries)
    # A query of padding sees at least itself: attention to nothing at all is not a number.
    return (wide & past) | itself, False


def document_mask(
    segment_ids: Integer[Tensor, "batch pos"], *, is_causal: bool = False
) -> Bool[Tensor, "batch pos pos"]:
    """Return the mask of packed documents: a token sees its own document only.

    Args:
        segment_ids: Which document of the row a token belongs to.
        is_causal: Whether it sees only what stands before it.
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same.tril() if is_causal else same


def document_block_mask(
    segment_ids: Integer[Tensor, "batch pos"], *, is_causal: bool = False
) -> BlockMask:
    """Return what `document_mask` says as the block mask of flex attention.

    Blocks without a pair in them are skipped: the cost is that of the documents, not of the row.
    """
    same: MaskRule = lambda batch, head, query, key: (  # noqa: E731
        segment_ids[batch, query] == segment_ids[batch, key]
    )
    before: MaskRule = lambda batch, head, query, key: (  # noqa: E731
        same(batch, head, query, key) & (query >= key)
    )
    n_rows, n_pos = segment_ids.shape
    # Lambdas, because the rule is traced and a function whose types are checked cannot be.
    rule = before if is_causal else same
    return create_block_mask(rule, n_rows, None, n_pos, n_pos, device=str(segment_ids.device))
