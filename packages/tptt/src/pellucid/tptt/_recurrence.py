"""A recurrent mode applied to whole sequences."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pellucid.core import ArgumentError
from pellucid.tptt._activation import unlinear_activation
from pellucid.tptt._delta_rule import delta_rule_chunk
from pellucid.tptt._kernels import run_kernels, takes_kernels
from pellucid.tptt._modes import RecurrentMode
from pellucid.tptt._virtual import expand_writes

# A difference of neighbours may be nearly zero; brought to length 1 all the same, it would make
# the gradient at equal neighbours as large as one pleases.
_KEY_FLOOR = 0.05


class _Tokens(NamedTuple):
    """What each token brings, updates expanded."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor


def linear_attention(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_head"],
    gate: Float[Tensor, "batch kv_head pos #d_head"],
    *,
    mode: RecurrentMode,
    state: Float[Tensor, "batch kv_head d_head d_head"] | None = None,
    chunk_size: int = 64,
    previous: tuple[
        Float[Tensor, "batch kv_head lag d_head"], Float[Tensor, "batch kv_head lag d_head"]
    ]
    | None = None,
    offset: Int[Tensor, " batch"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head d_head d_head"]]:
    """Apply a recurrent mode, chunk by chunk, in the dtype of the queries.

    At each token the state S is updated `mode.order` times,
    S ← S + k ⊗ (g⊙v − Sᵀ(g⊙k)), with the keys and values that `expand_writes` makes of the
    token's, keys of differences brought to length 1 again; then the token reads Sᵀq. In a mode
    that is not linear, `unlinear_activation` is applied to S after every `chunk_size` tokens.

    Args:
        q: The queries; heads share the states in groups.
        k: The keys, of norm 1 at most.
        v: The values.
        gate: Strengths of the updates in (0, 1), for each feature or for all.
        mode: What is done at each token.
        state: What to start from; zeros when omitted. Rows are key features.
        chunk_size: Tokens between two activations. Linear modes do not depend on it.
        previous: Keys and values of the `mode.order - 1` tokens before; zeros when omitted.
        offset: How many tokens came after the last activation, fewer than `chunk_size`.
        lengths: How many tokens of each row count; the others, at its end, are ignored.
        backend: "torch", "fla" for the kernels of flash-linear-attention, which keep the state in
            float32, or "auto" for these where they can be had: on CUDA, in half precision, with one
            gate for each head and no gelu.

    Returns:
        What each token reads, and the state after the last one that counts.

    Raises:
        ArgumentError: (a ValueError) If heads cannot be grouped, the chunk size is below 1, or the
            backend cannot do this.
        MissingDependencyError: (an ImportError) If the backend is not installed.
    """
    _check(q, k, chunk_size)
    is_fused = takes_kernels(backend, mode, gate, width=k.shape[-1], dtype=q.dtype)
    if lengths is not None:
        ended = torch.arange(q.shape[2], device=q.device) >= lengths[:, None]
        hidden = ended[:, None, :, None]
        q, k, v, gate = (x.masked_fill(hidden, 0) for x in (q, k, v, gate))
    if state is None:
        state = k.new_zeros(*k.shape[:2], k.shape[-1], k.shape[-1])
    if q.shape[2] == 0:
        return q, state
    tokens = _expand(_Tokens(q, k, v, gate), mode, previous)
    if is_fused:
        return run_kernels(*tokens, state=state, order=mode.order)
    if mode.linear:
        return delta_rule_chunk(*tokens, state=state, order=mode.order, chunk_size=chunk_size)
    return _run_on_grid(tokens, mode.order, state, chunk_size, offset, lengths)


def _check(q: Tensor, k: Tensor, chunk_size: int) -> None:
    if q.shape[1] % k.shape[1]:
        raise ArgumentError(
            f"{q.shape[1]} query heads cannot share {k.shape[1]} heads of keys and values: give a "
            "multiple."
        )
    if chunk_size < 1:
        raise ArgumentError(f"chunk_size must be 1 or more, got {chunk_size!r}.")


def _expand(
    tokens: _Tokens, mode: RecurrentMode, previous: tuple[Tensor, Tensor] | None
) -> _Tokens:
    if mode.order == 1:
        return tokens
    before_k, before_v = previous if previous is not None else (None, None)
    k = expand_writes(tokens.k, mode.order, mode.trick, previous=before_k)
    if mode.trick in ("derivative", "combined"):
        k = normalize(k, dim=-1, eps=_KEY_FLOOR)
    v = expand_writes(tokens.v, mode.order, mode.trick, previous=before_v)
    return _Tokens(tokens.q, k, v, tokens.gate.repeat_interleave(mode.order, dim=2))


def _run_on_grid(
    tokens: _Tokens,
    order: int,
    state: Tensor,
    grid: int,
    offset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Apply the activation where each row, counted from its own start, fills a chunk."""
    batch, _, pos, _ = tokens.q.shape
    most = 0
    if offset is None:
        offset = torch.zeros(batch, dtype=torch.long, device=tokens.q.device)
    else:  # a compiled graph cannot ask for the number, but knows a bound of it
        most = grid - 1 if torch.compiler.is_compiling() else int(offset.max())
    if lengths is None:
        lengths = torch.full_like(offset, pos)
    end = pos + most
    slot = torch.arange(end, device=offset.device) - offset[:, None]
    aligned = _Tokens(
        *(_align(x, slot, times) for x, times in zip(tokens, (1, order, order, order), strict=True))
    )
    outs: list[Tensor] = []
    for first in range(0, end, grid):
        last = min(first + grid, end)
        here = slice(first * order, last * order)
        out, state = delta_rule_chunk(
            aligned.q[:, :, first:last],
            *(x[:, :, here] for x in aligned[1:]),
            state=state,
            order=order,
            chunk_size=grid,
        )
        outs.append(out)
        is_full = (offset + lengths >= first + grid)[:, None, None, None]
        state = torch.where(is_full, unlinear_activation(state), state)
    back = torch.arange(pos, device=offset.device) + offset[:, None]
    return _align(torch.cat(outs, dim=2), back, 1), state


def _align(
    x: Float[Tensor, "batch head virtual_pos d_head"], source: Int[Tensor, "batch pos"], times: int
) -> Tensor:
    """Take each token's `times` entries from its source; zeros where there is none."""
    place = torch.arange(times, device=source.device)
    index = (source[..., None] * times + place).flatten(1)
    is_there = (index >= 0) & (index < x.shape[2])
    index = index.clamp(0, x.shape[2] - 1)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index).masked_fill(~is_there[:, None, :, None], 0)
