"""The operator that published adapters were trained with, for them alone.

It is not the delta rule: each token of a chunk reads the state at the chunk's start, and only the
last token's update is handed on. So its result depends on the chunk size, and on the length of the
sequence through it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.tptt._activation import unlinear_activation
from pellucid.tptt._chunks import fast_invert_matrix, get_valid_chunk_size
from pellucid.tptt._modes import RecurrentMode
from pellucid.tptt._virtual import expand_virtual_tokens

_FIRST_STATE = 1e-6


def published_operator(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch head pos d_head"],
    v: Float[Tensor, "batch head pos d_head"],
    gate: Float[Tensor, "batch head pos d_head"],
    *,
    mode: RecurrentMode,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch head d_head d_head"]]:
    """Compute what tptt 0.8.1 to 0.12.1 compute, without their state for each token.

    A state is neither taken nor handed on by them from one call to the next.

    Args:
        q: The queries.
        k: The keys.
        v: The values.
        gate: Strengths of the updates in (0, 1).
        mode: What is done at each token.
        chunk_size: The most tokens of a chunk; the largest divisor of the length is taken.

    Returns:
        What each token reads, and the state after the last.
    """
    order = mode.order
    size = get_valid_chunk_size(q.shape[2], chunk_size)
    q, k, v, gate = (expand_virtual_tokens(x, order, mode.trick) for x in (q, k, v, gate))
    q, k, v, gate = (x.unflatten(2, (-1, size * order)) for x in (q, k, v, gate))
    gated = k * gate
    solved = fast_invert_matrix(-(gated @ k.mT), dtype=q.dtype)
    state = torch.full_like(k[:, :, 0, 0, :, None] * k[:, :, 0, 0, None], _FIRST_STATE)
    return sequential_delta_product_scan(
        q, solved @ gated, solved @ (v * gate), order, mode.linear, size, state, q.dtype, False
    )


def sequential_delta_product_scan(
    q_chunks: Float[Tensor, "batch head chunk chunk_pos d_head"],
    w: Float[Tensor, "batch head chunk chunk_pos d_head"],
    u: Float[Tensor, "batch head chunk chunk_pos d_head"],
    n_orders: int,
    linear_activation: bool,
    current_chunk_size: int,
    initial_recurrent_state: Float[Tensor, "batch head d_head d_head"],
    linear_precision: torch.dtype,
    use_checkpoint: bool,
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch head d_head d_head"]]:
    """Scan chunks as the published operator does.

    Args:
        q_chunks: Queries of `n_orders` virtual tokens for each token.
        w: What each virtual token erases and is written along.
        u: What it writes.
        n_orders: Virtual tokens for each token.
        linear_activation: Whether the state stays as it is between chunks.
        current_chunk_size: Tokens of a chunk.
        initial_recurrent_state: What to start from.
        linear_precision: What to compute in.
        use_checkpoint: Without meaning here: no state is kept for the backward pass.

    Returns:
        What each token reads, and the last state.
    """
    del use_checkpoint
    state = initial_recurrent_state.to(linear_precision)
    slots = (current_chunk_size, n_orders)
    outs: list[Tensor] = []
    chunked = (x.to(linear_precision).unflatten(3, slots).unbind(2) for x in (q_chunks, w, u))
    for q, erase, write in zip(*chunked, strict=True):
        out, state = _scan_chunk(q, erase, write, state)
        if not linear_activation:
            state = unlinear_activation(state)
        outs.append(out)
    return torch.cat(outs, dim=2), state


def _scan_chunk(q: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Scan a chunk whose slots stand on an axis of their own, the last but one."""
    changes: list[Tensor] = []
    out = q[..., 0, :]
    for slot in range(q.shape[-2]):
        own_w, own_q = w[..., slot, :], q[..., slot, :]
        erased, read = own_w @ state, own_q @ state
        for earlier, change in enumerate(changes):
            before = w[..., earlier, :]
            erased = erased + (own_w * before).sum(-1, keepdim=True) * change
            read = read + (own_q * before).sum(-1, keepdim=True) * change
        changes.append(u[..., slot, :] - erased)
        out = read + own_q * changes[-1]
    last = torch.stack([change[..., -1, :] for change in changes], dim=-2)
    return out, state + w[..., -1, :, :].mT @ last
