"""The delta rule: one token at a time, and many tokens at once."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

# Longer chunks cost more arithmetic inside, shorter ones more steps between; measured on both.
_CPU_CHUNK = 32
_GPU_CHUNK = 64
# On a CPU, what is worked on together should stay in its caches: floats of one operand. With a
# gradient all of it is kept anyway, and what counts is that there are few pieces.
_CPU_SPAN = 1 << 17
_CPU_SPAN_WITH_GRADIENT = 1 << 20
# Blocks of this size are inverted by substitution, larger ones from their halves.
_BLOCK = 16
# Below, the overhead of chunks is more than all of the arithmetic.
_FEW_UPDATES = 4


def delta_rule_step(
    q: Float[Tensor, "batch head d_head"],
    k: Float[Tensor, "batch kv_head n_updates d_head"],
    v: Float[Tensor, "batch kv_head n_updates d_head"],
    gate: Float[Tensor, "batch kv_head n_updates #d_head"],
    state: Float[Tensor, "batch kv_head d_head d_head"],
) -> tuple[Float[Tensor, "batch head d_head"], Float[Tensor, "batch kv_head d_head d_head"]]:
    """Update a state with one token, then read from it.

    For each update, S ← S + k ⊗ (g⊙v − Sᵀ(g⊙k)); then o = Sᵀq.

    Args:
        q: The query of each head; heads share the states in groups.
        k: The keys of the updates, of norm 1 at most.
        v: The values of the updates.
        gate: Strengths of the updates in (0, 1), for each feature or for all.
        state: Rows are key features, columns value features.

    Returns:
        What is read, and the new state.
    """
    for update in range(k.shape[2]):
        key, value, strength = k[:, :, update], v[:, :, update], gate[:, :, update]
        known = ((strength * key)[:, :, None] @ state)[:, :, 0]
        state = state + key[..., None] * (strength * value - known)[:, :, None]
    batch, heads, width = q.shape
    groups = q.reshape(batch, state.shape[1], -1, width)
    return (groups @ state).reshape(batch, heads, width), state


def delta_rule_chunk(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head virtual_pos d_head"],
    v: Float[Tensor, "batch kv_head virtual_pos d_head"],
    gate: Float[Tensor, "batch kv_head virtual_pos #d_head"],
    *,
    state: Float[Tensor, "batch kv_head d_head d_head"],
    order: int = 1,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head d_head d_head"]]:
    """Apply the delta rule to all tokens, in time linear in their number.

    Inside a chunk all updates are found together, from the inverse of one triangular matrix (the
    WY form of a product of Householder matrices, arXiv 2406.06484); from chunk to chunk only the
    state is handed on. The result is that of `delta_rule_step` for one token after the other,
    whatever the chunk size.

    Args:
        q: The queries; heads share the states in groups.
        k: The keys, `order` for each token, of norm 1 at most.
        v: The values, `order` for each token.
        gate: Strengths of the updates in (0, 1), for each feature or for all.
        state: What to start from; rows are key features, columns value features.
        order: Updates of the state for each token.
        chunk_size: The most tokens that a chunk may hold; fewer are taken where that is faster.

    Returns:
        What each token reads after its updates, and the state after the last.
    """
    if q.shape[2] * order <= _FEW_UPDATES:
        return _one_by_one(q, k, v, gate, state, order)
    size = _tokens_in_chunk(q.shape[2], order, chunk_size, q.device)
    span = _tokens_in_span(q, k, size)
    outs: list[Tensor] = []
    # Split, not sliced: the backward pass of slices would be quadratic.
    pieces = (q.split(span, dim=2), *(x.split(span * order, dim=2) for x in (k, v, gate)))
    for q_here, k_here, v_here, gate_here in zip(*pieces, strict=True):
        out, state = _run_span(q_here, k_here, v_here, gate_here, state, size)
        outs.append(out)
    return (torch.cat(outs, dim=2) if len(outs) > 1 else outs[0]), state


def _run_span(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    batch, heads, pos, width = q.shape
    kv_heads, order = k.shape[1], k.shape[2] // pos
    n_chunks = -(-pos // size)
    missing = n_chunks * size - pos
    if missing:  # a token of zeros changes nothing
        q = pad(q, (0, 0, 0, missing))
        k, v, gate = (pad(x, (0, 0, 0, missing * order)) for x in (k, v, gate))
    chunks, length = batch * kv_heads * n_chunks, size * order
    q = q.reshape(batch, kv_heads, -1, n_chunks, size, width).transpose(2, 3)
    q = q.reshape(chunks, -1, width)
    k, v = (x.reshape(chunks, length, width) for x in (k, v))
    gate = gate.reshape(chunks, length, -1)
    gated = k * gate
    inverse = _invert_unit_triangular(gated @ k.mT, order)
    starts, corrections, state = _scan_states(
        inverse @ gated, inverse @ (v * gate), k, state.reshape(-1, width, width)
    )
    scores = _mask_later(q @ k.mT, size, order)
    out = torch.baddbmm(scores @ corrections, q, starts)
    out = out.reshape(batch, kv_heads, n_chunks, -1, size, width).transpose(2, 3)
    out = out.reshape(batch, heads, n_chunks * size, width)[:, :, :pos]
    return out, state.reshape(batch, kv_heads, width, width)


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    outs: list[Tensor] = []
    for at in range(q.shape[2]):
        own = slice(at * order, (at + 1) * order)
        out, state = delta_rule_step(
            q[:, :, at], k[:, :, own], v[:, :, own], gate[:, :, own], state
        )
        outs.append(out)
    return (torch.stack(outs, dim=2) if outs else q), state


def _tokens_in_chunk(pos: int, order: int, chunk_size: int, device: torch.device) -> int:
    """Return a power of two, so that the triangle can be inverted from its halves."""
    best = _GPU_CHUNK if device.type == "cuda" else _CPU_CHUNK
    most = max(1, min(chunk_size, best // order))
    enough = 1 << (pos - 1).bit_length()
    return min(1 << (most.bit_length() - 1), enough)


def _tokens_in_span(q: Tensor, k: Tensor, size: int) -> int:
    if q.device.type != "cpu":
        return q.shape[2]
    in_token = max(q[:, :, 0].numel(), k[:, :, 0].numel() * (k.shape[2] // q.shape[2]))
    most = _CPU_SPAN_WITH_GRADIENT if torch.is_grad_enabled() else _CPU_SPAN
    return max(1, most // (in_token * size)) * size


def _invert_unit_triangular(lower: Tensor, order: int) -> Tensor:
    """Return the inverse of I + L, with L what stands below the diagonal of a square matrix."""
    chunks, length = lower.shape[:2]
    size = length
    while size > _BLOCK and size % 2 == 0 and size // 2 % order == 0:
        size //= 2
    eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
    inverse = torch.linalg.solve_triangular(
        _blocks_on_diagonal(lower, size), eye, upper=False, unitriangular=True
    )
    while size < length:
        # [[A, 0], [C, B]] has the inverse [[A', 0], [-B' C A', B']].
        first, second = inverse.reshape(chunks, -1, 2, size, size).unbind(2)
        below = _blocks_on_diagonal(lower, 2 * size)[:, :, size:, :size]
        corner = -(second @ below @ first)
        upper = pad(first, (0, size))
        inverse = torch.cat((upper, torch.cat((corner, second), dim=-1)), dim=-2)
        size *= 2
    return inverse.reshape(chunks, length, length)


def _blocks_on_diagonal(matrix: Tensor, size: int) -> Tensor:
    chunks, length = matrix.shape[:2]
    blocks = matrix.reshape(chunks, length // size, size, length // size, size)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def _scan_states(
    erased: Tensor, written: Tensor, keys: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each chunk's first state, its corrections to the state, and the last state."""
    rows, (chunks, length, width) = state.shape[0], keys.shape

    # Taken apart once: indexing in the loop would make the backward pass quadratic.
    def take_apart(x: Tensor) -> tuple[Tensor, ...]:
        return x.reshape(rows, -1, length, width).unbind(1)

    starts: list[Tensor] = []
    corrections: list[Tensor] = []
    parts = (take_apart(x) for x in (erased, written, keys))
    for erase, write, key in zip(*parts, strict=True):
        starts.append(state)
        correction = torch.baddbmm(write, erase, state, alpha=-1)
        state = torch.baddbmm(state, key.mT, correction)
        corrections.append(correction)
    start = torch.stack(starts, dim=1).reshape(chunks, width, width)
    return start, torch.stack(corrections, dim=1).reshape(chunks, length, width), state


def _mask_later(scores: Tensor, size: int, order: int) -> Tensor:
    """Leave to each token the updates of itself and of the tokens before."""
    token = torch.arange(size, device=scores.device)
    later = token.repeat_interleave(order)[None, :] > token[:, None]
    chunks, _, length = scores.shape
    return scores.reshape(chunks, -1, size, length).masked_fill_(later, 0).flatten(1, 2)
