"""One more token of a sequence whose state is there: what decoding does, with little beside it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import silu

from pellucid.tptt._operator import LinearAttentionOp
from pellucid.tptt._pool import CausalAvgPool1d, Window
from pellucid.tptt._signals import Signal

_EPS = 1e-6


def decode_token(
    projected: tuple[
        Float[Tensor, "batch pos _"],
        Float[Tensor, "batch pos d_model"],
        Float[Tensor, "batch pos d_model"],
    ],
    valid: Bool[Tensor, "#batch pos"] | None,
    entry: Mapping[str, Any],
    *,
    operator: LinearAttentionOp,
    pool: CausalAvgPool1d,
    gate_granularity: str,
    gates: Signal,
) -> tuple[Float[Tensor, "batch 1 _"], dict[str, Any]] | None:
    """Return what the heads of one token read, merged, and what to remember after it.

    It is for one token of a linear mode of order 1, without gradients, that goes on from a state.
    What takes the time here is the number of calls, not the arithmetic: queries and keys are
    brought to norm 1 together, and factors ride on products. Between two layers the caches of a
    CPU are full of weights, so that a kernel which the base model runs too, such as a product or a
    sum, takes half the time of one that only this function would run, such as a norm.

    Args:
        projected: Its query, key and value, heads merged.
        valid: Whether it counts; None where it does in all rows.
        entry: What is remembered of the tokens before.
        operator: What would do the same for many tokens.
        pool: What gates are made with.
        gate_granularity: One gate for each "channel" or "head".
        gates: Shows the gate.

    Returns:
        None where it is not for these tokens, and under autocast, which the operator keeps away
        from its products.
    """
    q, k, v = projected
    state: Tensor | None = entry.get("recurrent_state")
    if state is None or k.shape[1] != 1 or not operator.is_plain or torch.is_grad_enabled():
        return None
    batch, kv_heads, width, _ = state.shape
    if entry.get("pending") is not None or k.shape != (batch, 1, kv_heads * width):
        return None
    rows = batch * kv_heads
    if valid is not None:
        ended = ~valid[..., None]
        q, k, v = (x.masked_fill(ended, 0) for x in projected)
    gate, windows, began = _make_gate(
        k, v, valid, entry, operator.mode.gate_type, pool, gate_granularity
    )
    if gates.is_watched:
        gate = gates(gate.view(batch, kv_heads, 1, -1))
    gate, value = gate.view(rows, 1, -1), v.reshape(rows, 1, width)
    units = _make_units(q, k, rows, state.dtype)
    is_cast = not q.dtype == operator.linear_precision == state.dtype
    if is_cast:
        units, value, gate = (
            x.to(operator.linear_precision).to(state.dtype) for x in (units, value, gate)
        )
    key, query = units[:, :1], units[:, 1:]
    before = state.reshape(rows, width, width)
    # what is written, less what is known of it
    change = torch.baddbmm(gate * value, gate * key, before, beta=width**-0.5, alpha=-1)
    if change.dtype != state.dtype:
        return None
    after = torch.baddbmm(before, key.mT, change)
    read = torch.bmm(query, after).view(batch, 1, -1)
    after = after.view(batch, kv_heads, width, width)
    if operator.state.is_watched:
        after = operator.state(after)
    if is_cast:
        read = read.to(operator.linear_precision)
    return read, {
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
    }


def _make_units(q: Tensor, k: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Return keys and queries of norm 1, each key before the queries that share it."""
    width = k.numel() // rows
    units = silu(torch.cat((k.reshape(rows, 1, width), q.reshape(rows, -1, width)), dim=1), True)
    units = units.to(dtype)
    return units * (units * units).sum(-1, keepdim=True).clamp_min_(_EPS**2).rsqrt_()


def _make_gate(
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    entry: Mapping[str, Any],
    gate_type: str,
    pool: CausalAvgPool1d,
    granularity: str,
) -> tuple[Tensor, tuple[Window, ...], Tensor | None]:
    """Return the gate, what the next gate needs of the tokens, and which rows have begun."""
    sources = (k,) if gate_type == "k" else (v,) if gate_type == "v" else (k, v)
    began = entry.get("began")
    gates: list[Tensor] = []
    windows: list[Window] = []
    for source, window in zip(sources, entry["windows"], strict=True):
        if began is not None:  # rows that have seen no token that counts begin here
            has_begun, start = began[:, None, None], pool.begin(source)[:, :1]
            window = tuple(torch.where(has_begun, token, start) for token in window)
        mean = pool.mean_of_last((*window, source))
        if granularity == "head":
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
