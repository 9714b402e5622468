"""Activation patching on the grids that people ask for by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._analysis._patching import (
    Metric,
    PatchSetter,
    generic_activation_patch,
    layer_head_dest_src_pos_pattern_patch_setter,
    layer_head_pattern_patch_setter,
    layer_head_pos_pattern_patch_setter,
    layer_head_vector_patch_setter,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
)

Grid = Callable[..., Any]


def _make(
    name: str, activation: str, setter: PatchSetter, axes: Sequence[str], meaning: str
) -> Grid:
    def patch(
        model: Any,
        corrupted_tokens: Any,
        clean_cache: Any,
        patching_metric: Metric | Mapping[str, Metric],
        *,
        reduce: str = "scalar",
        attention_mask: Tensor | None = None,
        cells_per_batch: int | None = None,
    ) -> Any:
        return generic_activation_patch(
            model, corrupted_tokens, clean_cache, patching_metric, setter, activation, axes,
            reduce=reduce, attention_mask=attention_mask, cells_per_batch=cells_per_batch,
        )  # fmt: skip

    patch.__name__ = patch.__qualname__ = name
    patch.__doc__ = (
        f"Patch {meaning}; see `generic_activation_patch`.\n\nReturns:\n    Of shape "
        f"({', '.join(axes)})."
    )
    return patch


def _make_stream(name: str, activation: str, meaning: str) -> Grid:
    return _make(name, activation, layer_pos_patch_setter, ("layer", "pos"), meaning)


def _make_vectors(which: str, activation: str, meaning: str) -> tuple[Grid, Grid]:
    prefix = f"get_act_patch_attn_head_{which}"
    by_pos = _make(
        f"{prefix}_by_pos", activation, layer_pos_head_vector_patch_setter,
        ("layer", "pos", "head"), f"{meaning} at each position",
    )  # fmt: skip
    all_pos = _make(
        f"{prefix}_all_pos", activation, layer_head_vector_patch_setter,
        ("layer", "head"), f"{meaning} at all positions",
    )  # fmt: skip
    return by_pos, all_pos


get_act_patch_resid_pre = _make_stream(
    "get_act_patch_resid_pre", "resid_pre", "the residual stream before each block"
)
get_act_patch_resid_mid = _make_stream(
    "get_act_patch_resid_mid", "resid_mid", "the residual stream between attention and MLP"
)
get_act_patch_attn_out = _make_stream(
    "get_act_patch_attn_out", "attn_out", "what attention adds to the stream"
)
get_act_patch_mlp_out = _make_stream(
    "get_act_patch_mlp_out", "mlp_out", "what the MLP adds to the stream"
)
get_act_patch_attn_head_out_by_pos, get_act_patch_attn_head_out_all_pos = _make_vectors(
    "out", "z", "each head's result"
)
get_act_patch_attn_head_q_by_pos, get_act_patch_attn_head_q_all_pos = _make_vectors(
    "q", "q", "each head's queries"
)
get_act_patch_attn_head_k_by_pos, get_act_patch_attn_head_k_all_pos = _make_vectors(
    "k", "k", "each head's keys"
)
get_act_patch_attn_head_v_by_pos, get_act_patch_attn_head_v_all_pos = _make_vectors(
    "v", "v", "each head's values"
)
get_act_patch_attn_head_pattern_all_pos = _make(
    "get_act_patch_attn_head_pattern_all_pos", "pattern", layer_head_pattern_patch_setter,
    ("layer", "head"), "each head's pattern",
)  # fmt: skip
get_act_patch_attn_head_pattern_dest_src_pos = _make(
    "get_act_patch_attn_head_pattern_dest_src_pos", "pattern",
    layer_head_dest_src_pos_pattern_patch_setter, ("layer", "head", "dest_pos", "src_pos"),
    "each entry of each head's pattern",
)  # fmt: skip
_pattern_by_dest = _make(
    "_pattern_by_dest", "pattern", layer_head_pos_pattern_patch_setter,
    ("layer", "head", "dest_pos"), "each row of each head's pattern",
)  # fmt: skip


def get_act_patch_attn_head_pattern_by_pos(
    model: Any, corrupted_tokens: Any, clean_cache: Any, patching_metric: Metric, **options: Any
) -> Tensor:
    """Patch what each head attends to from each position; see `generic_activation_patch`.

    Returns:
        Of shape (layer, pos, head).
    """
    made = _pattern_by_dest(model, corrupted_tokens, clean_cache, patching_metric, **options)
    return made.transpose(1, 2)


def get_act_patch_attn_head_all_pos_every(
    model: Any, corrupted_tokens: Any, clean_cache: Any, patching_metric: Metric, **options: Any
) -> Tensor:
    """Patch each head's result, queries, keys, values and pattern at all positions.

    Returns:
        Of shape (5, layer, head). Heads that share keys and values show what these give.
    """
    grids = (
        get_act_patch_attn_head_out_all_pos,
        get_act_patch_attn_head_q_all_pos,
        get_act_patch_attn_head_k_all_pos,
        get_act_patch_attn_head_v_all_pos,
        get_act_patch_attn_head_pattern_all_pos,
    )
    return _every(grids, (model, corrupted_tokens, clean_cache, patching_metric), options)


def get_act_patch_attn_head_by_pos_every(
    model: Any, corrupted_tokens: Any, clean_cache: Any, patching_metric: Metric, **options: Any
) -> Tensor:
    """Patch each head's result, queries, keys, values and pattern at each position.

    Returns:
        Of shape (5, layer, pos, head). Heads that share keys and values show what these give.
    """
    grids = (
        get_act_patch_attn_head_out_by_pos,
        get_act_patch_attn_head_q_by_pos,
        get_act_patch_attn_head_k_by_pos,
        get_act_patch_attn_head_v_by_pos,
        get_act_patch_attn_head_pattern_by_pos,
    )
    return _every(grids, (model, corrupted_tokens, clean_cache, patching_metric), options)


def get_act_patch_block_every(
    model: Any, corrupted_tokens: Any, clean_cache: Any, patching_metric: Metric, **options: Any
) -> Tensor:
    """Patch the stream before each block, what its attention adds, and what its MLP adds.

    Returns:
        Of shape (3, layer, pos).
    """
    grids = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
    given = (model, corrupted_tokens, clean_cache, patching_metric)
    return torch.stack([grid(*given, **options) for grid in grids])


def _every(grids: Sequence[Grid], given: Sequence[Any], options: dict[str, Any]) -> Tensor:
    made = [grid(*given, **options) for grid in grids]
    # Keys and values may have fewer heads than queries.
    n_heads = made[0].shape[-1]
    return torch.stack([one.repeat_interleave(n_heads // one.shape[-1], dim=-1) for one in made])
