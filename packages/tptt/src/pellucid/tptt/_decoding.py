"""One more token of a sequence whose state is there: what decoding does, with little beside it.

What takes the time here is the number of calls, not the arithmetic: queries and keys are brought to
norm 1 together, factors ride on products, and numbers on what takes them without making tensors of
them. Between two layers the caches of a CPU are full of weights, so that each other kernel, and
each function around it, has to be fetched again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import silu

from pellucid.tptt._operator import LinearAttentionOp
from pellucid.tptt._pool import CausalAvgPool1d, Window
from pellucid.tptt._signals import Signal

NORM_EPS = 1e-6
"""The least norm of a query or key, and what is added to the mean square of what heads read."""

# A tensor, since a product takes only such to add to.
_FLOOR = torch.full((1, 1, 1), NORM_EPS)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedParts:
    """What a layer does the same with for many tokens.

    Args:
        operator: Says the mode and the precision, and shows the state.
        pool: What gates are made with.
        gate_granularity: One gate for each "channel" or "head".
        gates: Shows the gate.
        reads: Shows what heads read.
    """

    operator: LinearAttentionOp
    pool: CausalAvgPool1d
    gate_granularity: str
    gates: Signal
    reads: Signal


def decode_token(
    parts: DecodedParts,
    projected: tuple[
        Float[Tensor, "batch pos _"],
        Float[Tensor, "batch pos d_model"],
        Float[Tensor, "batch pos d_model"],
    ],
    valid: Bool[Tensor, "#batch pos"] | None,
    entry: Mapping[str, Any],
) -> tuple[Float[Tensor, "batch 1 _"], Float[Tensor, "batch 1 1"] | None, dict[str, Any]] | None:
    """Return what the heads of one token read, merged, and what to remember after it.

    It is for one token of a linear mode of order 1, without gradients, that goes on from a state.

    Args:
        parts: Of the layer.
        projected: The token's query, key and value, heads merged.
        valid: Whether it counts; None where it does in all rows.
        entry: What is remembered of the tokens before.

    Returns:
        None where it is not for these tokens, and under autocast, which the operator keeps away
        from its products. Between the two what brings the heads to a mean square of 1, or None
        where that is to be found as for many tokens.
    """
    q, k, v = projected
    operator = parts.operator
    state: Tensor | None = entry.get("recurrent_state")
    if state is None or k.shape[1] != 1 or not operator.is_plain or torch.is_grad_enabled():
        return None
    batch, kv_heads, width, _ = state.shape
    if entry.get("pending") is not None or k.shape != (batch, 1, kv_heads * width):
        return None
    if valid is not None:
        ended = ~valid[..., None]
        q, k, v = (x.masked_fill(ended, 0) for x in projected)
    gate, windows, began = _make_gate(parts, k, v, valid, entry)
    if parts.gates.is_watched:
        gate = parts.gates(gate.view(batch, kv_heads, 1, -1))
    made = _update(operator.linear_precision, q, k, v, gate, state)
    if made is None:
        return None
    read, after = made
    if operator.state.is_watched:
        after = operator.state(after)
    scale = None
    if read.dtype == torch.float32 and read.is_cpu and not parts.reads.is_watched:
        scale = torch.baddbmm(_FLOOR, read, read.mT, alpha=1 / read.shape[-1]).rsqrt_()
    return (
        read,
        scale,
        {
            "recurrent_state": after,
            "windows": windows,
            "began": began,
            # as after any call: what it takes to undo it
            "before": {
                "recurrent_state": state,
                "windows": entry["windows"],
                "began": entry.get("began"),
            },
            "recent": (k, v, None if valid is None else valid.expand(batch, 1)),
        },
    )


def _update(
    precision: torch.dtype, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return what is read after the token, and the state; None where products round."""
    batch, kv_heads, width, _ = state.shape
    rows = batch * kv_heads
    gate, value = gate.view(rows, 1, -1), v.reshape(rows, 1, width)
    # each key before the queries that share it
    units = torch.cat((k.reshape(rows, 1, width), q.reshape(rows, -1, width)), dim=1)
    units = silu(units, inplace=True).to(state.dtype)
    units /= vector_norm(units, dim=-1, keepdim=True).clamp_min_(NORM_EPS)
    is_cast = not q.dtype == precision == state.dtype
    if is_cast:
        units, value, gate = (x.to(precision).to(state.dtype) for x in (units, value, gate))
    key, query = units[:, :1], units[:, 1:]
    before = state.reshape(rows, width, width)
    # what is written, less what is known of it
    change = torch.baddbmm(gate * value, gate * key, before, beta=width**-0.5, alpha=-1)
    if change.dtype != state.dtype:
        return None
    after = torch.baddbmm(before, key.mT, change)
    read = torch.bmm(query, after).view(batch, 1, -1)
    return read.to(precision) if is_cast else read, after.view(batch, kv_heads, width, width)


def _make_gate(
    parts: DecodedParts, k: Tensor, v: Tensor, valid: Tensor | None, entry: Mapping[str, Any]
) -> tuple[Tensor, tuple[Window, ...], Tensor | None]:
    """Return the gate, what the next gate needs of the tokens, and which rows have begun."""
    kind = parts.operator.mode.gate_type
    sources = (k,) if kind == "k" else (v,) if kind == "v" else (k, v)
    began = entry.get("began")
    gates: list[Tensor] = []
    windows: list[Window] = []
    for source, window in zip(sources, entry["windows"], strict=True):
        if began is not None:  # rows that have seen no token that counts begin here
            has_begun, start = began[:, None, None], parts.pool.begin(source)[:, :1]
            window = tuple(torch.where(has_begun, token, start) for token in window)
        mean = parts.pool.mean_of_last((*window, source))
        if parts.gate_granularity == "head":
            mean = mean.unflatten(-1, (-1, entry["recurrent_state"].shape[-1])).mean(dim=-1)
        gates.append(mean.sigmoid())
        moved = (*window, source)[1:] if window else window
        if valid is not None:
            is_counted = valid[..., None]
            moved = tuple(
                torch.where(is_counted, *pair) for pair in zip(moved, window, strict=True)
            )
        windows.append(moved)
    gate = gates[0] if len(gates) == 1 else gates[0] * gates[1]
    if valid is not None:
        gate = gate.masked_fill(~valid[..., None], 0)
        began = None if began is None else began | valid[:, 0]
    return gate, tuple(windows), began
