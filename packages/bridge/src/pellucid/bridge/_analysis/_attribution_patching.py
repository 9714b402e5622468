"""Attribution patching: all cells of a patching grid to first order, from one backward pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._analysis._patch_runs import read_tokens
from pellucid.bridge._analysis._patching import AXES, Metric, grid_shape, name_cells
from pellucid.bridge._engine._gradients import take_gradients


def attribution_patch(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Any,
    patching_metric: Metric,
    activation_name: str,
    index_axis_names: Sequence[str],
    *,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Return how much each patch would change a metric, to first order.

    Nanda 2023, "Attribution patching". One forward and one backward pass stand for all runs of
    `generic_activation_patch` with the same grid, less the metric of the corrupted run.

    Args:
        model: A bridge.
        corrupted_tokens: The input of the run: ids of shape (batch, pos), or text.
        clean_cache: Activations of another run, of the same shape.
        patching_metric: Of the logits, one number; differentiable.
        activation_name: Short name, such as "resid_pre" or "z".
        index_axis_names: Axes of the grid: layer, pos, head_index (or head), src_pos, dest_pos.
        attention_mask: 0 where a position is padding.

    Returns:
        Of the shape of the grid; nan where a block has no such activation.

    Raises:
        ArgumentError: (a ValueError) If an axis is not known, or the metric is not differentiable.
        HookNameError: (a KeyError) If no block has such an activation, or the cache does not.
    """
    tokens = read_tokens(model, corrupted_tokens)
    axes = list(index_axis_names)
    shape = grid_shape(model, tokens, clean_cache, activation_name, axes)
    has_layers = "layer" in axes
    rows = [(number,) for number in range(model.cfg.n_layers)] if has_layers else [()]
    cells = name_cells(model, activation_name, ["layer"] if has_layers else [], rows)
    values, gradients = take_gradients(
        model, tokens, [cell.name for cell in cells], patching_metric, attention_mask=attention_mask
    )
    kept = [axis for axis in axes if axis != "layer"]
    sizes = [size for size, axis in zip(shape, axes, strict=True) if axis != "layer"]
    made = torch.full((len(rows), *sizes), float("nan"), dtype=torch.get_default_dtype())
    made = made.to(next(iter(gradients.values())))
    for cell in cells:
        clean = clean_cache[cell.name]
        product = (clean.to(values[cell.name]) - values[cell.name]) * gradients[cell.name]
        spec = model.hook_table()[cell.name].shape.split()
        made[cell.place] = _sum_to(product, spec, [str(AXES[axis]) for axis in kept])
    if not has_layers:
        return made[0]
    place = axes.index("layer")
    return made.movedim(0, place)


def _sum_to(product: Tensor, axes: Sequence[str], kept: Sequence[str]) -> Tensor:
    """Sum over all axes but some, which come in the order given."""
    places = [axes.index(axis) for axis in kept]
    rest = [place for place in range(product.ndim) if place not in places]
    return product.permute(*places, *rest).flatten(len(places)).sum(-1)
