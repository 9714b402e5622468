"""Linear attention put into a model, where its attention modules are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pellucid.core import ArgumentError
from pellucid.tptt._layouts import extract_layer_idx, find_layout
from pellucid.tptt._liza import LiZAttention
from pellucid.tptt._states import LCache


class NoTargetError(ArgumentError):
    """No module of a model is called as was asked for, or is an attention module."""


def get_tptt_model(
    model: nn.Module,
    base_config: Any,
    liza_attention: type[LiZAttention] = LiZAttention,
    target_modules: Sequence[str] | None = None,
    linear_cache: LCache | None = None,
    operator_mode: str = "delta_rule",
    recurrent_config: Mapping[str, Any] | None = None,
    base_scale_attn: bool = False,
    mag_weight: float = 0.5,
    cross_gate: bool = False,
    max_chunk_size: int = 64,
    linear_precision: str | torch.dtype = torch.float32,
    max_self_attn_length: int | None = None,
    padding_side: str = "right",
    bidirectional: bool = False,
    pooling_config: Mapping[str, Any] | None = None,
    *,
    compat: str | None = None,
    gate_granularity: str = "channel",
    backend: str = "auto",
    target_modules_names: Sequence[str] | None = None,
    use_linear_checkpoint: bool = False,
) -> tuple[Any, LCache]:
    """Put `LiZAttention` in the place of a model's self-attention modules; the model is changed.

    Args:
        model: A model of transformers, or a part of one.
        base_config: Its config.
        liza_attention: What to put there.
        target_modules: How the names of the modules end; all modules with separable queries, keys
            and values when omitted.
        linear_cache: Shows what is remembered.
        operator_mode: See `LiZAttention`, as for all that follow.
        recurrent_config: The parts of a mode, in place of its name.
        base_scale_attn: Whether to scale the linear branch by the base's.
        mag_weight: The share of the linear branch.
        cross_gate: Whether to add the product of the branches.
        max_chunk_size: See `LinearAttentionOp`.
        linear_precision: A dtype, or its name.
        max_self_attn_length: How many tokens softmax attention sees.
        padding_side: Kept for its readers.
        bidirectional: Whether to read in both directions.
        pooling_config: Of the gates.
        compat: See `LinearAttentionOp`.
        gate_granularity: See `LinearAttention`.
        backend: See `linear_attention`.
        target_modules_names: Another name of `target_modules`.
        use_linear_checkpoint: Whether linear attention is computed again in the backward pass, to
            save memory.

    Returns:
        The model, and the object that shows what it remembers.

    Raises:
        NoTargetError: (a ValueError) If there is no such module.
        RequirementError: (a TypeError) If one of them has no separable queries, keys and values.
        ArgumentError: (a ValueError) If linear attention is there already, or targets are named
            twice.
    """
    targets = _either(target_modules, target_modules_names)
    _check_is_base(model)
    cache = linear_cache if linear_cache is not None else LCache()
    # All are made before any is put in place: a failure leaves the model as it was.
    made = [
        (
            name,
            liza_attention(
                module,
                _layer_of(module, name),
                base_config,
                cache,
                operator_mode,
                recurrent_config,
                max_self_attn_length,
                base_scale_attn,
                mag_weight,
                cross_gate,
                max_chunk_size,
                linear_precision,
                padding_side,
                bidirectional=bidirectional,
                pooling_config=pooling_config,
                compat=compat,
                gate_granularity=gate_granularity,
                backend=backend,
            ),
        )
        for name, module in find_targets(model, targets).items()
    ]
    for _, liza in made:
        liza.linear_attn.linear_operator.use_checkpoint = use_linear_checkpoint
    _put_in_place(model, made, getattr(base_config, "num_hidden_layers", None))
    return model, cache


def _either(targets: Sequence[str] | None, names: Sequence[str] | None) -> Sequence[str] | None:
    if targets is not None and names is not None:
        raise ArgumentError("target_modules and target_modules_names are the same. Give one.")
    return names if targets is None else targets


def _check_is_base(model: nn.Module) -> None:
    if any(isinstance(module, LiZAttention) for module in model.modules()):
        raise ArgumentError(
            "the model has linear attention already. Begin with the model that it was made of."
        )


def _put_in_place(
    model: nn.Module, made: Sequence[tuple[str, LiZAttention]], n_layers: int | None
) -> None:
    for name, liza in made:
        # masks are made for all layers at once
        liza.forgets_keys = len(made) == n_layers
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, liza)


def find_targets(model: nn.Module, suffixes: Sequence[str] | None) -> dict[str, nn.Module]:
    """Return the self-attention modules of a model, by name, none inside of another.

    Args:
        model: Where to look.
        suffixes: How their names end; any name when None. Where a name belongs to a module around
            the attention module, as in BERT, the one inside is taken.

    Raises:
        NoTargetError: (a ValueError) If there is none.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not name or any(name.startswith(f"{outer}.") for outer in found):
            continue
        if suffixes is None:
            if find_layout(module) is not None:
                found[name] = module
        elif any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes):
            inner = dict(_inside(name, module))
            found.update(inner or {name: module})
    if not found:
        looked = "with queries, keys and values" if suffixes is None else f"of {list(suffixes)!r}"
        raise NoTargetError(
            f"{type(model).__name__} has no module {looked}. Its modules are called "
            f"{', '.join(sorted(_last_names(model)))}."
        )
    return found


def list_liza(model: nn.Module) -> list[LiZAttention]:
    """Return a model's modules with linear attention, first to last."""
    return [module for module in model.modules() if isinstance(module, LiZAttention)]


def set_mag_weight(model: nn.Module, weight: float) -> None:
    """Set the share of linear attention in all layers of a model.

    Raises:
        ArgumentError: (a ValueError) If it is not from 0 to 1.
    """
    for module in list_liza(model):
        module.mag_weight = weight


def _inside(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if find_layout(module) is not None:
        yield name, module
        return
    for own, child in module.named_children():
        if find_layout(child) is not None:
            yield f"{name}.{own}", child


def _layer_of(module: nn.Module, name: str) -> int:
    stated = getattr(module, "layer_idx", None)
    return stated if isinstance(stated, int) else extract_layer_idx(f"{name}.")


def _last_names(model: nn.Module) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, _ in model.named_modules()
        if name and not name.rpartition(".")[2].isdigit()
    }
