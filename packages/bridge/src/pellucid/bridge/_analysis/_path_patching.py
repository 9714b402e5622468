"""Path patching: what one part of a model tells another one, without what it tells the rest."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.bridge._analysis._patch_runs import Cell, PatchRuns
from pellucid.bridge._analysis._patching import Metric, reduce_metric
from pellucid.bridge._names._table import HookTable
from pellucid.core import ArgumentError

Node: TypeAlias = tuple[str, int] | tuple[str, int, int]
"""An activation by short name and layer, and the head if one alone is meant."""


def get_act_patch_direct_path(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Any,
    corrupted_cache: Any,
    patching_metric: Metric,
    src_layer: int,
    src_head: int,
    component: str = "q",
    *,
    attention_mask: Tensor | None = None,
    cells_per_batch: int | None = None,
) -> Float[Tensor, "layer head"]:
    """Let each later head alone read what one head writes in a clean run.

    Of the stream that a head's queries, keys or values are made of, the source's part is that of
    the clean run; all else is as in the corrupted run until there. Its norm is computed anew.

    Args:
        model: A bridge.
        corrupted_tokens: The input of the runs.
        clean_cache: Activations of another run, of the same shape.
        corrupted_cache: Activations of a run on the corrupted tokens.
        patching_metric: Of the logits, one number.
        src_layer: The block of the head that writes.
        src_head: That head.
        component: What reads: "q", "k" or "v".
        attention_mask: 0 where a position is padding.
        cells_per_batch: How many runs share a forward pass; as many as memory allows if None.

    Returns:
        Of shape (layer, head), with as many heads as there are of this component; the metric of the
        corrupted run where there is no path.

    Raises:
        ArgumentError: (a ValueError) If the component is another one, or there is no such head.
    """
    if component not in ("q", "k", "v"):
        raise ArgumentError(f"component must be 'q', 'k' or 'v', got {component!r}.")
    clean, corrupted = (c.get_head_results(src_layer) for c in (clean_cache, corrupted_cache))
    if not 0 <= src_head < clean.shape[-2]:
        raise ArgumentError(f"layer {src_layer} has no head {src_head!r}.")
    difference = (clean - corrupted)[..., src_head, :]
    with torch.no_grad():
        runs = PatchRuns(
            model, corrupted_tokens, attention_mask=attention_mask, cells_per_batch=cells_per_batch
        )
        n_heads = _count_readers(model, component)
        baseline = reduce_metric(patching_metric(runs.run_plain()), "scalar")
        made = baseline.expand(model.cfg.n_layers, n_heads).clone()

        def edit(stream: Tensor, cell: Cell) -> None:
            stream[:, :, cell.index[1]] += difference.to(stream)

        cells = list(_list_readers(model, component, src_layer, n_heads))
        for cell, logits in runs.run(cells, edit):
            made[cell.index] = reduce_metric(patching_metric(logits), "scalar").to(made)
    return made


def get_act_patch_direct_path_all_sources(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Any,
    corrupted_cache: Any,
    patching_metric: Metric,
    component: str = "q",
    *,
    attention_mask: Tensor | None = None,
    cells_per_batch: int | None = None,
) -> Float[Tensor, "layer head layer head"]:
    """Let each head alone read what each earlier head writes; see `get_act_patch_direct_path`.

    Returns:
        Of shape (layer, head, layer, head): of the head that writes, then of the one that reads.
    """
    rows = [
        get_act_patch_direct_path(
            model, corrupted_tokens, clean_cache, corrupted_cache, patching_metric, layer, head,
            component, attention_mask=attention_mask, cells_per_batch=cells_per_batch,
        )
        for layer in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    ]  # fmt: skip
    return torch.stack(rows).unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))


def path_patch(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Any,
    corrupted_cache: Any,
    *,
    senders: Sequence[Node],
    receivers: Sequence[Node],
    freeze_mlps: bool = False,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Let some activations see what others are in a clean run, with all attention else as it was.

    Wang et al. 2022, "Interpretability in the wild". A first run has the senders as in the clean
    run, and what all other heads gather, and MLPs add if they are frozen, as in the corrupted one;
    a second run, on the corrupted tokens, has the receivers as in the first.

    Args:
        model: A bridge.
        corrupted_tokens: The input of both runs.
        clean_cache: Activations of another run, of the same shape.
        corrupted_cache: Activations of a run on the corrupted tokens.
        senders: Such as ("z", 0, 3), head 3 of block 0.
        receivers: Such as ("q", 1, 2), or ("resid_post", 1).
        freeze_mlps: Whether paths through MLPs are cut as well.
        attention_mask: 0 where a position is padding.

    Returns:
        The logits of the second run.

    Raises:
        HookNameError: (a KeyError) If there is no such activation, or a cache does not hold it.
    """
    runs = PatchRuns(model, corrupted_tokens, attention_mask=attention_mask)
    table: HookTable = model.hook_table()
    kinds = ("z", "mlp_out") if freeze_mlps else ("z",)
    frozen = [
        (kind, layer)
        for layer in range(model.cfg.n_layers)
        for kind in kinds
        if _exists(table, (kind, layer))
    ]
    kept: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any) -> None:
        kept[hook.name] = value.detach().clone()

    # What is frozen comes first, so that a sender is what it is told to be.
    first: list[tuple[Any, Any]] = [(node, _put(corrupted_cache, node, table)) for node in frozen]
    first += [(node[:2], _put(clean_cache, node, table)) for node in senders]
    first += [(node[:2], keep) for node in receivers]
    with torch.no_grad():
        with model.hooks(fwd_hooks=first):
            runs.run_plain()
        second = [(node[:2], _put(kept, node, table)) for node in receivers]
        with model.hooks(fwd_hooks=second):
            return runs.run_plain()


def _put(source: Any, node: Node, table: HookTable) -> Callable[..., Tensor]:
    """Return the hook that puts an activation, or one head of it, where it belongs.

    Raises:
        ArgumentError: (a ValueError) If a head is meant of what has no heads.
    """
    spec = table[node[:2]]
    axes = spec.shape.split()
    if len(node) == 3 and "head" not in axes:
        raise ArgumentError(f"{spec.name!r} has no heads, so {node!r} means nothing.")
    axis = axes.index("head") if "head" in axes else 0

    def put(value: Tensor, hook: Any) -> Tensor:
        held = source[spec.name].to(value)
        if len(node) == 2:
            # A copy: some models write into what they are given.
            return held.clone()
        made = value.clone()
        made.select(axis, node[2]).copy_(held.select(axis, node[2]))
        return made

    return put


def _exists(table: Any, key: tuple[str, int]) -> bool:
    try:
        table.resolve(key)
    except KeyError:
        return False
    return True


def _list_readers(model: Any, component: str, src_layer: int, n_heads: int) -> Iterator[Cell]:
    table, n_layers = model.hook_table(), model.cfg.n_layers
    for layer in range(src_layer + 1, n_layers):
        key = (f"{component}_input", layer)
        if _exists(table, key):
            name = table.resolve(key)
            for head in range(n_heads):
                place = layer * n_heads + head
                yield Cell(place=place, index=(layer, head), name=name, layer=layer)


def _count_readers(model: Any, component: str) -> int:
    table = model.hook_table()
    for layer in range(model.cfg.n_layers):
        if _exists(table, (f"{component}_input", layer)):
            return table[f"{component}_input", layer].tap.n_heads
    return table[f"{component}_input", 0].tap.n_heads
