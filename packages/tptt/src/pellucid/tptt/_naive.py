"""The recurrence written out: one token, one update, one head after the other."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.tptt._activation import unlinear_activation
from pellucid.tptt._modes import RecurrentMode

_KEY_FLOOR = 0.05


def delta_rule_recurrent(
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
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head d_head d_head"]]:
    """Apply a recurrent mode in float64, slowly: the meaning of `linear_attention`.

    Arguments and results are those of `linear_attention`, but for the dtype, which is float64.
    """
    q, k, v, gate = (x.double() for x in (q, k, v, gate))
    outs = torch.zeros_like(q)
    groups = q.shape[1] // k.shape[1]
    rows: list[Tensor] = []
    for row in range(q.shape[0]):
        heads: list[Tensor] = []
        for head in range(k.shape[1]):
            own = slice(head * groups, (head + 1) * groups)
            length = q.shape[2] if lengths is None else int(lengths[row])
            start = k.new_zeros(k.shape[-1], k.shape[-1])
            out, last = _run_head(
                q[row, own, :length],
                _updates(k, None if previous is None else previous[0], mode, (row, head)),
                _updates(v, None if previous is None else previous[1], mode, (row, head)),
                gate[row, head].expand(-1, k.shape[-1]),
                state=start if state is None else state[row, head].double(),
                # without gelu there is no grid
                grid=None if mode.linear else chunk_size,
                offset=0 if offset is None else int(offset[row]),
                is_unit=mode.order > 1 and mode.trick in ("derivative", "combined"),
            )
            outs = outs.index_put(
                (
                    torch.tensor([[row]]),
                    torch.arange(own.start, own.stop)[:, None],
                    torch.arange(length)[None],
                ),
                out,
            )
            heads.append(last)
        rows.append(torch.stack(heads))
    return outs, torch.stack(rows)


def _run_head(
    q: Tensor,
    keys: list[list[Tensor]],
    values: list[list[Tensor]],
    gate: Tensor,
    *,
    state: Tensor,
    grid: int | None,
    offset: int,
    is_unit: bool,
) -> tuple[Tensor, Tensor]:
    outs: list[Tensor] = []
    for at in range(q.shape[1]):
        for key, value in zip(keys[at], values[at], strict=True):
            if is_unit:
                key = key / key.norm().clamp_min(_KEY_FLOOR)
            strength = gate[at]
            change = strength * value - state.mT @ (strength * key)
            state = state + key[:, None] * change[None, :]
        outs.append(q[:, at] @ state)
        if grid is not None and (offset + at + 1) % grid == 0:
            state = unlinear_activation(state)
    return (torch.stack(outs, dim=1) if outs else q), state


def _updates(
    x: Tensor, previous: Tensor | None, mode: RecurrentMode, place: tuple[int, int]
) -> list[list[Tensor]]:
    tokens = list(x[place])
    before = [] if previous is None else [token.double() for token in previous[place]]
    updates: list[list[Tensor]] = []
    for at, token in enumerate(tokens):
        past = [token, *reversed([*before, *tokens[:at]])]
        differences = [_difference(past, slot) for slot in range(mode.order)]
        rotations = [_rotation(token, slot, mode.order) for slot in range(mode.order)]
        averages = [(a + b) / 2 for a, b in zip(differences, rotations, strict=True)]
        updates.append(
            {
                "derivative": differences,
                "rotative": rotations,
                "combined": averages,
                "cte": [token] * mode.order,
            }[mode.trick]
        )
    return updates


def _difference(past: list[Tensor], slot: int) -> Tensor:
    total = torch.zeros_like(past[0])
    for lag in range(slot + 1):
        if lag < len(past):
            total = total + (-1) ** lag * math.comb(slot, lag) * past[lag]
    return total / 2**slot


def _rotation(token: Tensor, slot: int, order: int) -> Tensor:
    angle = math.pi * slot / order
    rotated = list(token)
    for first in range(0, len(rotated) - 1, 2):
        a, b = token[first], token[first + 1]
        rotated[first] = math.cos(angle) * a - math.sin(angle) * b
        rotated[first + 1] = math.sin(angle) * a + math.cos(angle) * b
    return torch.stack(rotated)
