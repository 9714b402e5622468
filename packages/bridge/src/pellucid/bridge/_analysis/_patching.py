"""Activation patching: what a metric makes of one run with pieces of another run put into it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pellucid.bridge._analysis._patch_runs import Cell, PatchRuns
from pellucid.core import ArgumentError, MissingDependencyError

PatchSetter: TypeAlias = Callable[[Tensor, Sequence[int], Tensor], Tensor]
"""Called as `setter(corrupted, index, clean)`; returns the corrupted activation, patched."""

Metric: TypeAlias = Callable[[Tensor], Any]
"""Takes logits of shape (batch, pos, d_vocab)."""

# Axes of a grid, and the axes of an activation that they stand for.
AXES = {
    "layer": None,
    "pos": "pos",
    "head_index": "head",
    "head": "head",
    "src_pos": "key_pos",
    "dest_pos": "query_pos",
}
_REDUCTIONS = ("scalar", "mean", "none")


def generic_activation_patch(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Any,
    patching_metric: Metric | Mapping[str, Metric],
    patch_setter: PatchSetter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: Any = None,
    return_index_df: bool = False,
    *,
    reduce: str = "scalar",
    attention_mask: Tensor | None = None,
    cells_per_batch: int | None = None,
) -> Any:
    """Patch pieces of a clean run into a corrupted one, one at a time, and measure each.

    Cells of the grid share forward passes as rows of a batch, and those of a block begin at that
    block. The result is that of a loop over single runs.

    Args:
        model: A bridge.
        corrupted_tokens: The input of the runs: ids of shape (batch, pos), or text.
        clean_cache: Activations of another run, of the same shape.
        patching_metric: Of the logits; several by name give a dictionary of results.
        patch_setter: Called as `setter(corrupted, index, clean)` with the run's activation, the
            place in the grid, and the clean activation; returns what stands in the run instead.
        activation_name: Short name, such as "resid_pre" or "z", completed by the layer of a cell.
        index_axis_names: Axes of the grid: layer, pos, head_index (or head), src_pos, dest_pos.
        index_df: In place of axes, a data frame of pandas with a row for each cell and a column for
            each axis.
        return_index_df: Whether to return the data frame of cells as well.
        reduce: "scalar" for metrics that give a number; for metrics that give one for each sample,
            "mean" for their mean and "none" for all of them.
        attention_mask: 0 where a position is padding.
        cells_per_batch: How many cells share a forward pass; as many as memory allows if None.

    Returns:
        Of the shape of the grid, (cell) for a data frame, with an axis of samples if "none"; nan
        where a block has no such activation.

    Raises:
        ArgumentError: (a ValueError) If the grid is not given once, an axis is not known, or a
            metric does not give what `reduce` says.
        HookNameError: (a KeyError) If no block has such an activation, or the cache does not.
        MissingDependencyError: (an ImportError) If a data frame is asked for without pandas.
    """
    if reduce not in _REDUCTIONS:
        raise ArgumentError(f"reduce must be one of {', '.join(map(repr, _REDUCTIONS))}.")
    pandas = _import_pandas() if return_index_df else None
    metrics = patching_metric if isinstance(patching_metric, Mapping) else {"": patching_metric}
    with torch.no_grad():
        runs = PatchRuns(
            model, corrupted_tokens, attention_mask=attention_mask, cells_per_batch=cells_per_batch
        )
        shape, axes, rows = _read_grid(
            model, runs.tokens, clean_cache, activation_name, index_axis_names, index_df
        )
        cells = list(name_cells(model, activation_name, axes, rows))

        def edit(corrupted: Tensor, cell: Cell) -> Tensor:
            return patch_setter(corrupted, list(cell.index), _clean(clean_cache, cell.name))

        found: dict[str, dict[int, Tensor]] = {name: {} for name in metrics}
        for cell, logits in runs.run(cells, edit):
            for name, metric in metrics.items():
                found[name][cell.place] = reduce_metric(metric(logits), reduce)
    results = {name: _fill(held, shape) for name, held in found.items()}
    made = results if isinstance(patching_metric, Mapping) else results[""]
    return made if pandas is None else (made, pandas.DataFrame(rows, columns=axes))


# Setters, by what they patch and what their index is.


def layer_pos_patch_setter(corrupted: Tensor, index: Sequence[int], clean: Tensor) -> Tensor:
    """Patch one position; the index is (layer, pos)."""
    _, pos = index
    corrupted[:, pos] = clean[:, pos]
    return corrupted


def layer_pos_head_vector_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch one head at one position; the index is (layer, pos, head)."""
    _, pos, head = index
    corrupted[:, pos, head] = clean[:, pos, head]
    return corrupted


def layer_head_vector_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch one head at all positions; the index is (layer, head)."""
    _, head = index
    corrupted[:, :, head] = clean[:, :, head]
    return corrupted


def layer_head_pattern_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch one head's pattern; the index is (layer, head)."""
    _, head = index
    corrupted[:, head] = clean[:, head]
    return corrupted


def layer_head_pos_pattern_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch what one head attends to from one position; the index is (layer, head, dest_pos)."""
    _, head, dest = index
    corrupted[:, head, dest] = clean[:, head, dest]
    return corrupted


def layer_head_dest_src_pos_pattern_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch one entry of one head's pattern; the index is (layer, head, dest_pos, src_pos)."""
    _, head, dest, src = index
    corrupted[:, head, dest, src] = clean[:, head, dest, src]
    return corrupted


# Grids.


def name_cells(
    model: Any, activation_name: str, axes: Sequence[str], rows: Sequence[tuple[int, ...]]
) -> list[Cell]:
    """Return the cells of a grid, without those whose block has no such activation.

    Raises:
        HookNameError: (a KeyError) If no block has it.
    """
    table = model.hook_table()
    place = axes.index("layer") if "layer" in axes else None
    layers = {None} if place is None else {row[place] for row in rows}
    keys = {n: activation_name if n is None else (activation_name, n) for n in layers}
    names: dict[int | None, str] = {}
    for layer, key in keys.items():
        try:
            names[layer] = table.resolve(key)
        except KeyError:
            if len(layers) == 1:
                raise
    if not names:
        table.resolve(next(iter(keys.values())))
    cells: list[Cell] = []
    for number, row in enumerate(rows):
        name = names.get(None if place is None else row[place])
        if name is not None:
            cells.append(Cell(place=number, index=row, name=name, layer=table[name].layer))
    return cells


def grid_shape(
    model: Any, tokens: Tensor, cache: Any, activation_name: str, axes: Sequence[str]
) -> tuple[int, ...]:
    """Return how long each axis of a grid is.

    Raises:
        ArgumentError: (a ValueError) If an axis is not known, or the activation has none such.
    """
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown:
        raise ArgumentError(f"unknown axis {unknown[0]!r}. Known are {', '.join(AXES)}.")
    n_pos = tokens.shape[1]
    sizes = {"layer": model.cfg.n_layers, "pos": n_pos, "src_pos": n_pos, "dest_pos": n_pos}
    return tuple(
        sizes[axis] if axis in sizes else _count_heads(model, cache, activation_name)
        for axis in axes
    )


def reduce_metric(value: Any, reduce: str) -> Tensor:
    """Return a metric's value as what the grid holds of it.

    Raises:
        ArgumentError: (a ValueError) If it is not what `reduce` says.
    """
    held = torch.as_tensor(value).detach()
    if reduce == "scalar":
        if held.numel() != 1:
            raise ArgumentError(
                f"the metric gave shape {tuple(held.shape)}, expected one number. Pass reduce="
                "'mean' or 'none' for one number for each sample."
            )
        return held.reshape(())
    if held.ndim != 1:
        raise ArgumentError(
            f"the metric gave shape {tuple(held.shape)}, expected one number for each sample."
        )
    return held.float().mean() if reduce == "mean" else held


def _read_grid(
    model: Any,
    tokens: Tensor,
    cache: Any,
    activation_name: str,
    index_axis_names: Sequence[str] | None,
    index_df: Any,
) -> tuple[tuple[int, ...], list[str], list[tuple[int, ...]]]:
    if (index_axis_names is None) == (index_df is None):
        raise ArgumentError("give the grid once: index_axis_names, or index_df.")
    if index_df is not None:
        axes = [str(name) for name in index_df.columns]
        rows = [tuple(map(int, row)) for row in index_df.itertuples(index=False)]
        return (len(rows),), axes, rows
    axes = list(index_axis_names or ())
    shape = grid_shape(model, tokens, cache, activation_name, axes)
    return shape, axes, list(itertools.product(*map(range, shape)))


def _count_heads(model: Any, cache: Any, activation_name: str) -> int:
    table = model.hook_table()
    for layer in range(model.cfg.n_layers):
        try:
            name = table.resolve((activation_name, layer))
        except KeyError:
            continue
        axes = table[name].shape.split()
        if "head" not in axes:
            raise ArgumentError(f"{activation_name!r} has no axis of heads, its shape is {axes}.")
        return _clean(cache, name).shape[axes.index("head")]
    table.resolve((activation_name, 0))
    raise ArgumentError(f"no block has {activation_name!r}.")


def _clean(cache: Any, name: str) -> Tensor:
    held = cache[name]
    return held if getattr(cache, "has_batch_dim", True) else held.unsqueeze(0)


def _fill(held: dict[int, Tensor], shape: tuple[int, ...]) -> Tensor:
    values = list(held.values())
    n_cells = 1
    for size in shape:
        n_cells *= size
    first = values[0]
    filled = first.new_full((n_cells, *first.shape), 0).to(_floating(first))
    filled.fill_(float("nan"))
    filled[torch.tensor(list(held))] = torch.stack(values).to(filled)
    return filled.reshape(*shape, *first.shape)


def _floating(value: Tensor) -> torch.dtype:
    return value.dtype if value.is_floating_point() else torch.get_default_dtype()


def _import_pandas() -> Any:
    try:
        import pandas  # noqa: PLC0415 - an extra that few need
    except ImportError as error:
        raise MissingDependencyError(
            "return_index_df makes a data frame, and pandas is not installed: "
            "pip install 'pellucid-bridge[pandas]'"
        ) from error
    return pandas
