"""Where an attention module of transformers keeps its projections."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core import ArgumentError, RequirementError

_OUT_NAMES = ("o_proj", "out_proj", "dense", "c_proj")
_LAYER = re.compile(r"\.(\d+)\.")

Split = Callable[["HeadSizes", Sequence[Tensor]], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """How many heads an attention module has, and how wide they are."""

    heads: int
    kv_heads: int
    width: int


@dataclass(frozen=True, kw_only=True)
class AttentionLayout:
    """How to get queries, keys and values out of an attention module.

    Args:
        projections: The names of the modules that make them, in the order of `split`'s argument.
        out: The name of the module that mixes the heads; None if it lies outside.
        split: Turns what these modules return into queries, keys and values, heads merged.
    """

    projections: tuple[str, ...]
    out: str | None
    split: Split


def _take_three(_: HeadSizes, outs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return outs[0], outs[1], outs[2]


def _cut_in_turn(sizes: HeadSizes, outs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    q, kv = sizes.heads * sizes.width, sizes.kv_heads * sizes.width
    whole = outs[0]
    return whole[..., :q], whole[..., q : q + kv], whole[..., q + kv : q + 2 * kv]


def _cut_each_head(sizes: HeadSizes, outs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    heads = outs[0].unflatten(-1, (sizes.heads, 3, sizes.width))
    q, k, v = (heads[..., part, :].flatten(-2) for part in range(3))
    return q, k, v


_KNOWN: tuple[tuple[tuple[str, ...], Split], ...] = (
    (("q_proj", "k_proj", "v_proj"), _take_three),
    (("qkv_proj",), _cut_in_turn),
    (("c_attn",), _cut_in_turn),
    (("query", "key", "value"), _take_three),
)
# One fused projection, cut in turn inside of each head; others order theirs in other ways.
_FUSED_BY_HEAD = ("GPTNeoXAttention",)


# What users have said of attention modules, by the names of their classes.
_REGISTERED: dict[str, AttentionLayout] = {}


def register_attention_adapter(attention: type[nn.Module] | str, layout: AttentionLayout) -> None:
    """Say where an attention module keeps its projections, for modules that nobody knows here.

    Args:
        attention: The class of the module, or its name. What was said of it before is forgotten.
        layout: The names of its projections, and how queries, keys and values are got out of them.

    Raises:
        ArgumentError: (a ValueError) If the layout names no projection.
    """
    if not layout.projections:
        raise ArgumentError(f"a layout names one projection or more, got {layout!r}.")
    _REGISTERED[attention if isinstance(attention, str) else attention.__name__] = layout


def find_layout(module: nn.Module) -> AttentionLayout | None:
    """Return the layout of a self-attention module; None if it is none that is known."""
    if type(module).__name__ in _REGISTERED:
        return _REGISTERED[type(module).__name__]
    if getattr(module, "is_cross_attention", False) or "Cross" in type(module).__name__:
        return None
    out = next((name for name in _OUT_NAMES if _has(module, name)), None)
    for projections, split in _KNOWN:
        if all(_has(module, name) for name in projections):
            # Where q_proj and its like are, so is the projection out; BERT has it outside.
            if out is None and projections[0] != "query":
                return None
            return AttentionLayout(projections=projections, out=out, split=split)
    if type(module).__name__ in _FUSED_BY_HEAD:
        return AttentionLayout(projections=("query_key_value",), out="dense", split=_cut_each_head)
    return None


def require_layout(module: nn.Module) -> AttentionLayout:
    """Return the layout of a self-attention module.

    Raises:
        RequirementError: (a TypeError) If it has none that is known.
    """
    layout = find_layout(module)
    if layout is None:
        children = ", ".join(name for name, _ in module.named_children()) or "none"
        raise RequirementError(
            f"Unsupported attention module {type(module).__name__}: it has no separable queries, "
            f"keys and values among its modules ({children}). Known are q_proj/k_proj/v_proj, "
            "qkv_proj, c_attn, query/key/value and GPT-NeoX's query_key_value. Describe others "
            "with register_attention_adapter."
        )
    return layout


def find_projections(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the projections of a self-attention module, the one out last.

    Raises:
        RequirementError: (a TypeError) If it has none that are known.
    """
    layout = require_layout(module)
    return layout.projections if layout.out is None else (*layout.projections, layout.out)


def find_head_sizes(module: nn.Module, config: Any) -> HeadSizes:
    """Return the sizes that an attention module, or else its config, states.

    Raises:
        RequirementError: (a TypeError) If neither states how many heads there are.
    """
    attn, text = vars(module), _plain(config)
    heads = _first(attn, "num_heads", "num_q_heads", "num_attention_heads")
    heads = heads or _first(text, "num_heads", "num_attention_heads", "n_head")
    if heads is None:
        raise RequirementError(
            f"neither {type(module).__name__} nor its config says how many heads there are. "
            "Give a base_config with num_attention_heads."
        )
    hidden = _first(text, "hidden_size", "n_embd", "d_model")
    width = _first(attn, "head_dim", "attention_head_size", "head_size")
    width = width or _first(text, "head_dim") or (hidden // heads if hidden else None)
    if width is None:
        raise RequirementError(
            f"neither {type(module).__name__} nor its config says how wide a head is."
        )
    return HeadSizes(heads=heads, kv_heads=_count_kv_heads(module, text, heads, width), width=width)


def split_qkv(
    base_attn: nn.Module, qkv: Float[Tensor, "*shape d_qkv"]
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Cut a fused projection by the numbers of heads that an attention module states.

    Raises:
        ArgumentError: (a ValueError) If it lacks `num_q_heads`, `num_k_heads`, `num_v_heads` or
            `head_dim`, or they do not make up the projection.
    """
    names = ("num_q_heads", "num_k_heads", "num_v_heads", "head_dim")
    missing = [name for name in names if not isinstance(getattr(base_attn, name, None), int)]
    if missing:
        raise ArgumentError(f"{type(base_attn).__name__} does not say {', '.join(missing)}.")
    width = getattr(base_attn, "head_dim")  # noqa: B009 - modules have no such type
    sizes = [getattr(base_attn, name) * width for name in names[:3]]
    if sum(sizes) != qkv.shape[-1]:
        raise ArgumentError(
            f"heads of {sizes!r} features do not make up a projection of {qkv.shape[-1]}."
        )
    q, k, v = qkv.split(sizes, dim=-1)
    return q, k, v


def extract_layer_idx(module_name: str) -> int:
    """Return the number of the layer in a module's name; -1 if there is none."""
    matched = _LAYER.search(module_name)
    return int(matched[1]) if matched else -1


def find_embedding_lm(module: nn.Module) -> nn.Module | None:
    """Return the token embedding of a language model; None if it has none of a known name."""
    for child in module.modules():
        for name in ("embed_tokens", "token_embeddings"):
            embedding = getattr(child, name, None)
            if isinstance(embedding, nn.Module) and hasattr(embedding, "weight"):
                return embedding
    return None


def _count_kv_heads(module: nn.Module, text: Mapping[str, Any], heads: int, width: int) -> int:
    for name in ("k_proj", "key"):
        features = getattr(getattr(module, name, None), "out_features", None)
        if isinstance(features, int):
            return features // width
    if not _has(module, "qkv_proj"):
        return heads
    attn = vars(module)
    groups = _first(attn, "num_key_value_groups")
    stated = _first(attn, "num_kv_heads", "num_k_heads", "num_key_value_heads")
    shared = None if groups is None else heads // groups
    return stated or shared or _first(text, "num_key_value_heads") or heads


def _has(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Module)


def _first(values: Mapping[str, Any], *names: str) -> int | None:
    return next((values[name] for name in names if isinstance(values.get(name), int)), None)


def _plain(config: Any) -> Mapping[str, Any]:
    if config is None:
        return {}
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    # attribute_map gives older names; to_dict alone would miss them
    mapped = {new: getattr(text, new, None) for new in getattr(text, "attribute_map", {})}
    return {**vars(text), **{k: v for k, v in mapped.items() if v is not None}}
