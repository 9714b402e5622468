"""The activations of one attention module."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pellucid.bridge._architectures._heads import (
    HeadCounts,
    count_heads,
    view_fused,
    view_latent,
    view_projection,
)
from pellucid.bridge._architectures._record import Attention
from pellucid.bridge._engine._attention import asks_for_function
from pellucid.bridge._engine._readings import AttentionPlace
from pellucid.bridge._engine._taps import HeadInput, HeadResult, InsideAttention, Passing, Scaled
from pellucid.bridge._names._describe_parts import STREAM, BlockView, name_input
from pellucid.bridge._names._table import HookSpec
from pellucid.bridge._names._views import Heads, HeadsFirst, Latent, View, Whole

_WORDS = {"q": "queries", "k": "keys", "v": "values"}
_BY_HEAD = "batch pos head d_head"


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Where queries, keys or values are made: a module, where in it, and for how many heads."""

    module: nn.Module
    view: View
    n_heads: int
    is_own: bool


@dataclass(frozen=True, kw_only=True)
class _AttentionView:
    view: BlockView
    record: Attention
    name: str
    module: nn.Module
    heads: HeadCounts
    projections: Mapping[str, Projection]

    @property
    def is_self(self) -> bool:
        return self.name == "attn"


def describe_attention(view: BlockView, record: Attention | None, name: str) -> Iterator[HookSpec]:
    """Yield the activations of attention; nothing if the block has none.

    Args:
        view: The block.
        record: What its attention is.
        name: "attn", or "cross_attn" for attention to an encoder.
    """
    module = None if record is None else view.find(record.path)
    if record is None or module is None:
        return
    heads = count_heads(module, view.config)
    found = {w: find_projection(view, module, record, heads, w) for w in "qkv"}
    part = _AttentionView(
        view=view, record=record, name=name, module=module, heads=heads,
        projections={w: held for w, held in found.items() if held is not None},
    )  # fmt: skip
    norm = view.record.ln1 if part.is_self else view.record.ln_cross
    is_before = part.is_self or not view.record.is_post_norm
    if part.is_self:
        yield from _describe_head_inputs(part, view.find(norm))
    if is_before:
        yield from view.norm("ln1" if part.is_self else "ln_cross", norm)
    if record.path:
        tap = Passing(module, "before")
        yield view.spec(f"{name}.hook_in", STREAM, "what attention takes", tap)
    yield from _describe_projections(part)
    yield from _describe_inside(part)
    yield from _describe_output(part)
    for extra, path in record.extra.items():
        yield from view.leaf(f"{name}.{extra}", view.find(path, module))


def find_projection(
    view: BlockView, module: nn.Module, record: Attention, heads: HeadCounts, which: str
) -> Projection | None:
    """Return where an attention module makes queries, keys or values; None if nothing says.

    Args:
        view: The block.
        module: The attention module.
        record: What it is.
        heads: How many heads it has.
        which: "q", "k" or "v".
    """
    n_heads = heads.queries if which == "q" else heads.keys
    fused = view.find(record.qkv, module)
    if fused is not None:
        found = view_fused(fused, heads, record.fusion, which)
        return Projection(module=fused, view=found, n_heads=n_heads, is_own=False)
    latent = view.find(record.kv, module)
    if latent is not None and which != "q":
        found, n_heads = view_latent(latent, module, view.config, which)
        return Projection(module=latent, view=Latent(found), n_heads=n_heads, is_own=False)
    own = view.find(getattr(record, which), module)
    if own is None:
        return None
    found, n_heads = view_projection(own, heads, which)
    return Projection(module=own, view=found, n_heads=n_heads, is_own=True)


def _describe_head_inputs(part: _AttentionView, norm: Any) -> Iterator[HookSpec]:
    # Where keys and values come from a latent, heads do not read the stream.
    if len(part.projections) < 3 or part.record.kv is not None:
        return
    reader = part.module if norm is None else norm
    held = {w: (p.module, p.view, p.n_heads) for w, p in part.projections.items()}
    yield part.view.spec(
        "attn.hook_attn_in", "batch pos head d_model", "the stream as each head reads it",
        HeadInput(reader, norm, tuple(held.values()), part.heads.queries),
        aliases=("hook_attn_in",), gate="use_attn_in",
    )  # fmt: skip
    for which, projection in held.items():
        yield part.view.spec(
            f"attn.hook_{which}_input", "batch pos head d_model",
            f"the stream as each head's {which} projection reads it",
            HeadInput(reader, norm, (projection,), projection[2]),
            aliases=(f"hook_{which}_input",), gate="use_split_qkv_input",
        )  # fmt: skip


def _describe_projections(part: _AttentionView) -> Iterator[HookSpec]:
    name, view = part.name, part.view
    fused = view.find(part.record.qkv, part.module)
    for spec in view.leaf(f"{name}.qkv", fused):
        is_out = spec.name.endswith("hook_out")
        yield replace(spec, shape="batch pos d_qkv") if is_out else spec
    latent = view.find(part.record.kv, part.module)
    yield from view.leaf(f"{name}.kv", latent, view=Latent(Whole()))
    for which, projection in part.projections.items():
        if projection.is_own:
            yield view.spec(
                f"{name}.{which}.hook_in", name_input(projection.module, view.width),
                f"what the {_WORDS[which]} are made of",
                Passing(projection.module, "before"),
            )  # fmt: skip
        yield view.spec(
            f"{name}.{which}.hook_out", _BY_HEAD, f"{_WORDS[which]} by head, before any rotation",
            Passing(projection.module, "after", projection.view), aliases=(f"{name}.hook_{which}",),
        )  # fmt: skip
    for which in ("q_norm", "k_norm"):
        layer = view.find(getattr(part.record, which), part.module)
        is_by_head = layer is not None and _is_by_head(layer, part.heads)
        seen = HeadsFirst() if is_by_head and part.record.heads_first else Whole()
        for spec in view.leaf(f"{name}.{which}", layer, view=seen):
            yield replace(spec, shape=_BY_HEAD) if is_by_head else spec


def _is_by_head(norm: nn.Module, heads: HeadCounts) -> bool:
    """Say whether a norm of queries or keys is one of each head, and not of all together."""
    weight = getattr(norm, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        return len(weight) == heads.d_head
    return True


def _describe_inside(part: _AttentionView) -> Iterator[HookSpec]:
    name, module = part.name, part.module
    if asks_for_function(module):
        rotated: dict[str, AttentionPlace] = {"q": "queries", "k": "keys"}
        for which, place in rotated.items():
            yield part.view.spec(
                f"{name}.hook_rot_{which}", _BY_HEAD, f"{place} as scores are made of them",
                InsideAttention(module, place),
            )  # fmt: skip
    matrices: dict[str, tuple[AttentionPlace, str]] = {
        "attn_scores": ("scores", "scores, scaled and masked, before softmax"),
        "pattern": ("pattern", "how much each position attends to each"),
    }
    for which, (place, meaning) in matrices.items():
        yield part.view.spec(
            f"{name}.hook_{which}", "batch head query_pos key_pos", meaning,
            InsideAttention(module, place),
        )  # fmt: skip


def _describe_output(part: _AttentionView) -> Iterator[HookSpec]:
    name, view, record = part.name, part.view, part.record
    projection = view.find(record.o, part.module)
    result = "hook_attn_out" if part.is_self else "hook_cross_attn_out"
    is_last = not part.is_self or view.record.ln1_post is None or view.record.is_post_norm
    alias = (result,) if is_last and view.factor is None else ()
    # The module's own output is not the result where the projection is not its last part.
    is_outside = not record.path or (record.o is not None and record.o.startswith("."))
    is_on_projection = projection is not None and (record.adds_residual or is_outside)
    if projection is not None:
        yield view.spec(
            f"{name}.o.hook_in", _BY_HEAD, "what each head has gathered",
            Passing(projection, "before", Heads(part.heads.queries)), aliases=(f"{name}.hook_z",),
        )  # fmt: skip
        yield view.spec(
            f"{name}.hook_result", "batch pos head d_model",
            "what each head writes; with the bias, their sum is attention's output",
            HeadResult(projection, part.heads.queries), gate="use_attn_result",
        )  # fmt: skip
        yield view.spec(
            f"{name}.o.hook_out", STREAM, "what the heads write together",
            Passing(projection, "after"), aliases=alias if is_on_projection else (),
        )  # fmt: skip
    if record.path:
        yield view.spec(
            f"{name}.hook_out", STREAM, "what attention gives", Passing(part.module, "after"),
            aliases=() if is_on_projection else alias,
        )  # fmt: skip
    if view.factor is not None and is_last:
        yield view.spec(
            result, STREAM, "what attention adds to the stream", Scaled(part.module, view.factor)
        )
