"""One more token of a sequence whose state is there: what decoding does, with little beside it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import silu

from pellucid.tptt._operator import GATE_RANGE, LinearAttentionOp
from pellucid.tptt._pool import CausalAvgPool1d
from pellucid.tptt._signals import Signal

_EPS = 1e-6


def can_decode(
    operator: LinearAttentionOp,
    entry: Mapping[str, Any],
    k: Float[Tensor, "batch pos _"],
    kv_heads: int,
) -> bool:
    """Whether `decode_token` does what the operator would do with these keys.

    It is for one token of a linear mode of order 1, without gradients, that goes on from a state.
    """
    if k.shape[1] != 1 or torch.is_grad_enabled():
        return False
    state, mode = entry.get("recurrent_state"), operator.mode
    return (
        state is not None
        and entry.get("pending") is None
        and mode.order == 1
        and mode.linear
        and operator.compat is None
        and len(state) == len(k)
        and state.shape[1] == kv_heads
        and not torch.is_autocast_enabled(k.device.type)
    )


def decode_token(
    projected: tuple[
        Float[Tensor, "batch 1 _"],
        Float[Tensor, "batch 1 d_model"],
        Float[Tensor, "batch 1 d_model"],
    ],
    valid: Bool[Tensor, "#batch 1"] | None,
    entry: Mapping[str, Any],
    *,
    operator: LinearAttentionOp,
    pool: CausalAvgPool1d,
    gate_granularity: str,
    gates: Signal,
) -> tuple[Float[Tensor, "batch 1 _"], dict[str, Any]]:
    """Return what the heads of one token read, merged, and what to remember after it.

    What takes the time here is the number of calls, not the arithmetic: queries and keys are
    brought to norm 1 together, and factors ride on products.

    Args:
        projected: Its query, key and value, heads merged.
        valid: Whether it counts; None where it does in all rows.
        entry: What is remembered of the tokens before.
        operator: What would do the same for many tokens.
        pool: What gates are made with.
        gate_granularity: One gate for each "channel" or "head".
        gates: Shows the gate.
    """
    q, k, v = projected
    state: Tensor = entry["recurrent_state"]
    shape = batch, kv_heads, width, _ = state.shape
    rows = batch * kv_heads
    if valid is not None:
        ended = ~valid[..., None]
        q, k, v = (x.masked_fill(ended, 0) for x in projected)
    gate, windows, began = _make_gate(
        k, v, valid, entry, operator.mode.gate_type, pool, gate_granularity
    )
    if gates.is_watched:
        gate = gates(gate.view(batch, kv_heads, 1, -1)).clamp(0, GATE_RANGE[1])
    # all queries, then all keys
    units = silu(torch.cat((q.reshape(-1, width), k.reshape(-1, width))))
    units = units.div_(vector_norm(units, dim=-1, keepdim=True).clamp_min_(_EPS))
    if not q.dtype == operator.linear_precision == state.dtype:
        units, v, gate = (x.to(operator.linear_precision).to(state.dtype) for x in (units, v, gate))
    query, key = units.split_with_sizes((len(units) - rows, rows))
    key, gate, before = key[:, None], gate.view(rows, 1, -1), state.reshape(rows, width, width)
    # what is written, less what is known of it
    written = gate * v.reshape(rows, 1, width)
    change = torch.baddbmm(written, gate * key, before, beta=width**-0.5, alpha=-1)
    after = torch.baddbmm(before, key.mT, change)
    read = torch.bmm(query.view(rows, -1, width), after).view(batch, 1, -1)
    after = operator.state(after.view(shape))
    if not q.dtype == operator.linear_precision == state.dtype:
        read = read.to(operator.linear_precision)
    return read, {
        "recurrent_state": after,
        "windows": windows,
        "began": began,
        # as after any call: what it takes to undo it
        "before": {name: entry.get(name) for name in ("recurrent_state", "windows", "began")},
        "recent": (k, v, None if valid is None else valid.expand(batch, 1)),
    }


def _make_gate(
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    entry: Mapping[str, Any],
    gate_type: str,
    pool: CausalAvgPool1d,
    granularity: str,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """Return the gate, what the next gate needs of the tokens, and which rows have begun."""
    sources = (k,) if gate_type == "k" else (v,) if gate_type == "v" else (k, v)
    began, width = entry.get("began"), entry["recurrent_state"].shape[-1]
    gates: list[Tensor] = []
    windows: list[Tensor] = []
    for source, window in zip(sources, entry["windows"], strict=True):
        if began is not None:  # rows that have seen no token that counts begin here
            window = torch.where(began[:, None, None], window, pool.begin(source))
        whole = torch.cat((window, source), dim=1)
        mean = pool.mean_of_last(whole)
        if granularity == "head":
            mean = mean.unflatten(-1, (-1, width)).mean(dim=-1)
        gates.append(mean.sigmoid_())
        moved = whole[:, 1:]
        windows.append(moved if valid is None else torch.where(valid[..., None], moved, window))
    gate = (gates[0] if len(gates) == 1 else gates[0] * gates[1]).clamp_(*GATE_RANGE)
    if valid is not None:
        gate = gate.masked_fill(~valid[..., None], 0)
        began = None if began is None else began | valid[:, 0]
    return gate, tuple(windows), began
