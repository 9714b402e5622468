"""Activations that follow from others, for caches that hold the others alone."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._engine._taps import HeadInput, HeadResult, NormPart, Passing, ResidualMiddle
from pellucid.bridge._names._table import HookTable
from pellucid.bridge._weights._projections import weight_in_out
from pellucid.bridge._weights._writers import bare_tap, find_norm

Sources = tuple[tuple[str, ...], Callable[..., Tensor]]
"""The activations that one follows from, and how."""


def derive(name: str, held: Mapping[str, Tensor], bridge: Any) -> Tensor | None:
    """Return an activation made of others that are held, None if they are not.

    Heads' results follow from z and the weights, a norm's scale and normalised stream from what it
    takes, the stream between attention and MLP from that before and what attention adds, and what
    single heads or the MLP alone read from the stream that they read. Where a hook has changed one
    of them alone, what follows is not what the run had there: keep it in the cache.

    Args:
        name: Canonical name.
        held: Activations by canonical name.
        bridge: Where they come from.
    """
    table: HookTable = bridge.hook_table()
    found = _find_sources(name, table, bridge)
    if found is None or any(source not in held for source in found[0]):
        return None
    return found[1](*(held[source] for source in found[0]))


def _find_sources(name: str, table: HookTable, bridge: Any) -> Sources | None:
    tap = bare_tap(table, name)
    owner, _, place = name.rpartition(".")
    if isinstance(tap, HeadResult):
        weight = weight_in_out(tap.projection).detach().unflatten(0, (tap.n_heads, -1))
        source = f"{owner}.o.hook_in"
        return (source,), lambda z: torch.einsum("...hd,hdm->...hm", z, weight.to(z))
    if isinstance(tap, NormPart):
        _, formula = find_norm(table, owner)
        if tap.is_scale:
            return (f"{owner}.hook_in",), formula.scale
        return (f"{owner}.hook_in",), lambda x: formula.centre(x) / formula.scale(x)
    if isinstance(tap, ResidualMiddle) and place == "hook_resid_mid":
        return _find_middle(owner, table)
    if isinstance(tap, HeadInput) and f"{owner.rpartition('.')[0]}.hook_in" in table:
        return (f"{owner.rpartition('.')[0]}.hook_in",), lambda stream: stream.unsqueeze(-2).expand(
            *stream.shape[:-1], tap.n_heads, -1
        )
    if isinstance(tap, Passing) and place == "hook_mlp_in":
        before = "hook_in" if bridge.cfg.parallel_attn_mlp else "hook_resid_mid"
        if f"{owner}.{before}" in table:
            return (f"{owner}.{before}",), lambda stream: stream
    return None


def _find_middle(owner: str, table: HookTable) -> Sources | None:
    added = table.find(f"{owner}.hook_attn_out")
    if added is None:
        return None
    return (f"{owner}.hook_in", added), lambda before, part: before + part.view_as(before)
