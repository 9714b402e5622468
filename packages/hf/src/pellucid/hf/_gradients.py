"""From gradients at the embeddings to gradients of tokens, a part of the vocabulary at a time.

An input embedding is linear in the one-hot token, so the gradient with regard to the token is the
gradient at the embedding times the table: no vocabulary-sized tensor takes part in the backward
pass.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import ArgumentError, Substitutions
from pellucid.hf._embedding import EmbeddingTable

_MAX_SCORES = 2**24
_MAX_WIDENED = 2**24
_NORM_FLOOR = 1e-10


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32, or the type itself where it is wider."""
    return torch.promote_types(dtype, torch.float32)


def project_on_vocabulary(
    grads: Float[Tensor, "... d_model"], table: EmbeddingTable
) -> Float[Tensor, "... d_vocab"]:
    """Return the gradient with regard to one-hot tokens, in float32 or wider.

    Args:
        grads: The gradient at the embeddings.
        table: The embeddings of all tokens.
    """
    result = torch.empty(
        (*grads.shape[:-1], table.n_rows), dtype=wide_dtype(grads.dtype), device=grads.device
    )
    for start, stop, scores in _score_chunks(grads, table):
        if stop - start == table.n_rows:
            return scores
        result[..., start:stop] = scores
    return result


def topk_on_vocabulary(
    grads: Float[Tensor, "n_candidates trigger_pos d_model"],
    table: EmbeddingTable,
    k: int,
    allowed_ids: Int[Tensor, " n_allowed"] | None = None,
) -> Substitutions:
    """Return the k tokens of lowest gradient for each position, as `core.select_topk` would.

    Args:
        grads: The gradient at the embeddings.
        table: The embeddings of all tokens.
        k: How many tokens.
        allowed_ids: The tokens to choose from; all when omitted.

    Raises:
        ArgumentError: If there are fewer than k tokens to choose from, or k is less than 1.
    """
    n_choices = table.n_rows if allowed_ids is None else len(allowed_ids)
    if not 1 <= k <= n_choices:
        raise ArgumentError(
            f"k must lie between 1 and the {n_choices} tokens to choose from, got {k}."
        )
    banned = _banned_rows(allowed_ids, table.n_rows, grads.device)
    best: tuple[Tensor, Tensor] | None = None
    for start, stop, scores in _score_chunks(grads, table):
        if banned is not None:
            scores = scores.masked_fill(banned[start:stop], torch.inf)
        values, columns = scores.topk(min(k, stop - start), dim=-1, largest=False)
        best = _merge(best, (values, columns + start), k)
    if best is None:  # a table has rows
        raise ArgumentError("the embedding table is empty.")
    return Substitutions(best[1], best[0])


def normalize_on_vocabulary(
    grads: Float[Tensor, "... d_model"], table: EmbeddingTable
) -> Float[Tensor, "... d_model"]:
    """Scale gradients at the embeddings so that those of one-hot tokens have length 1.

    Their length is summed up over parts of the vocabulary.
    """
    squares = torch.zeros(grads.shape[:-1], dtype=wide_dtype(grads.dtype), device=grads.device)
    for _, _, scores in _score_chunks(grads, table):
        squares += scores.square().sum(dim=-1)
    return grads / (squares.sqrt() + _NORM_FLOOR)[..., None]


def embed_weights(
    weights: Float[Tensor, "n_candidates trigger_pos d_vocab"], table: EmbeddingTable
) -> Float[Tensor, "n_candidates trigger_pos d_model"]:
    """Return the weighted sum of all tokens' embeddings at each position, in the table's type."""
    total: Tensor | None = None
    wide = wide_dtype(weights.dtype)
    for start, stop in _chunks(table, weights[..., 0].numel()):
        part = weights[..., start:stop].to(wide) @ table.rows(start, stop).to(wide)
        total = part if total is None else total + part
    if total is None:
        raise ArgumentError("the embedding table is empty.")
    return total.to(table.rows(0, 1).dtype)


def softmax_pullback(
    probs: Float[Tensor, "... d_vocab"], grads: Float[Tensor, "... d_vocab"]
) -> Float[Tensor, "... d_vocab"]:
    """Return the gradient with regard to logits, given that with regard to their softmax."""
    return probs * (grads - (probs * grads).sum(dim=-1, keepdim=True))


def normalize_last(grads: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Bring each vector along the last axis to length 1."""
    return grads / (grads.norm(dim=-1, keepdim=True) + _NORM_FLOOR)


def _score_chunks(grads: Tensor, table: EmbeddingTable) -> Iterator[tuple[int, int, Tensor]]:
    wide = grads.to(wide_dtype(grads.dtype))
    for start, stop in _chunks(table, wide[..., 0].numel()):
        yield start, stop, wide @ table.rows(start, stop).to(wide.dtype).mT


def _chunks(table: EmbeddingTable, n_vectors: int) -> Iterator[tuple[int, int]]:
    """Cut the vocabulary so that neither scores nor widened rows outgrow a fixed size."""
    row = table.rows(0, 1)
    size = _MAX_SCORES // max(1, n_vectors)
    if row.dtype != wide_dtype(row.dtype):
        size = min(size, _MAX_WIDENED // row.shape[-1])
    size = max(size, 256)
    for start in range(0, table.n_rows, size):
        yield start, min(start + size, table.n_rows)


def _banned_rows(
    allowed_ids: Int[Tensor, " n_allowed"] | None, n_rows: int, device: torch.device
) -> Bool[Tensor, " d_vocab"] | None:
    if allowed_ids is None:
        return None
    banned = torch.ones(n_rows, dtype=torch.bool, device=device)
    banned[allowed_ids.to(device)] = False
    return banned


def _merge(
    best: tuple[Tensor, Tensor] | None, more: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    if best is None:
        return more
    values = torch.cat([best[0], more[0]], dim=-1)
    ids = torch.cat([best[1], more[1]], dim=-1)
    values, columns = values.topk(min(k, values.shape[-1]), dim=-1, largest=False, sorted=True)
    return values, ids.gather(-1, columns)
