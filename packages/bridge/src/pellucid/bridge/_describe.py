"""From a record and a model to the table of its activations."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from pellucid.bridge._attention import asks_for_function
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._heads import HeadCounts, count_heads, view_fused, view_projection
from pellucid.bridge._record import Architecture, Attention, Block, Mixer, Mlp, Stack
from pellucid.bridge._table import HookSpec
from pellucid.bridge._taps import (
    HeadInput,
    HeadResult,
    InsideAttention,
    NormPart,
    Passing,
    ResidualMiddle,
    Scaled,
    Tap,
)
from pellucid.bridge._views import Heads, Span, View
from pellucid.bridge._weights import width_out

_STREAM = "batch pos d_model"
_BEFORE_BLOCKS = ("embed", "token_type_embed", "pos_embed", "embed_ln", "rotary_emb")
_TOP_MEANINGS = {
    "embed": "token embeddings",
    "pos_embed": "position embeddings",
    "unembed": "next-token logits, before any cap or scale",
}


def find_part(root: nn.Module, path: str | None) -> Any:
    """Return the module at a dotted path, None if there is none; an empty path is the root."""
    if path is None:
        return None
    if not path:
        return root
    try:
        return operator.attrgetter(path)(root)
    except AttributeError:
        return None


def list_blocks(model: nn.Module, stack: Stack) -> list[nn.Module]:
    """Return a stack's blocks.

    Raises:
        ArchitectureError: If there is no list of modules where the record says.
    """
    found = find_part(model, stack.path)
    if not isinstance(found, nn.ModuleList) or not len(found):
        raise ArchitectureError(
            f"{type(model).__name__} has no blocks at {stack.path!r}, where its record says they "
            "are. Register a record that fits: register_architecture(Architecture(...))."
        )
    return list(found)


def describe_model(model: nn.Module, record: Architecture, config: Any) -> Iterator[HookSpec]:
    """Yield a model's activations in the order in which a forward pass makes them.

    Args:
        model: A model of transformers.
        record: What it is.
        config: Its configuration, that of its text part if it has several.
    """
    before = {name: path for name, path in record.parts.items() if name in _BEFORE_BLOCKS}
    after = {name: path for name, path in record.parts.items() if name not in before}
    width = int(config.hidden_size)
    yield from _describe_parts(model, before, width)
    for stack in record.stacks:
        for number, block in enumerate(list_blocks(model, stack)):
            yield from BlockDescriber(block, stack, number, config).describe()
    yield from _describe_parts(model, after, width)


def _describe_parts(model: nn.Module, parts: Mapping[str, str], width: int) -> Iterator[HookSpec]:
    for name, path in parts.items():
        module = find_part(model, path)
        if module is None:
            continue
        aliases = {"embed": ("hook_embed",), "pos_embed": ("hook_pos_embed",)}.get(name, ())
        if name == "unembed":
            aliases = ("hook_unembed",)
        if name == "rotary_emb":
            yield _rotary(module, "hook_cos", 0)
            yield _rotary(module, "hook_sin", 1)
            continue
        taken, given = _describe_leaf(
            name, module, _TOP_MEANINGS.get(name, f"what {name} gives"), None, aliases
        )
        yield taken
        if name.endswith("ln_final"):
            yield from _describe_norm(name, module, width, None)
        yield given


def _rotary(module: nn.Module, name: str, item: int) -> HookSpec:
    return HookSpec(
        name=f"rotary_emb.{name}",
        shape="batch pos rotary",
        meaning=f"{name.removeprefix('hook_')}ines of the rotary positions",
        tap=Passing(module, "after", item=item),
    )


def _describe_leaf(
    name: str,
    module: nn.Module,
    meaning: str,
    layer: int | None,
    aliases: tuple[str, ...] = (),
) -> Iterator[HookSpec]:
    shape = "batch pos" if "embed" in name and name != "unembed" else _STREAM
    yield HookSpec(
        name=f"{name}.hook_in",
        shape=shape,
        meaning=f"what {name.rpartition('.')[2]} takes",
        tap=Passing(module, "before"),
        layer=layer,
    )
    yield HookSpec(
        name=f"{name}.hook_out",
        shape="batch pos d_vocab" if name == "unembed" else _STREAM,
        meaning=meaning,
        tap=Passing(module, "after"),
        layer=layer,
        aliases=aliases,
    )


def _describe_norm(
    name: str, module: nn.Module, width: int, layer: int | None
) -> Iterator[HookSpec]:
    yield HookSpec(
        name=f"{name}.hook_scale",
        shape="batch pos 1",
        meaning="what the norm divides by",
        tap=NormPart(module, width, is_scale=True),
        layer=layer,
    )
    yield HookSpec(
        name=f"{name}.hook_normalized",
        shape=_STREAM,
        meaning="the norm's result before its weight and bias",
        tap=NormPart(module, width, is_scale=False),
        layer=layer,
    )


class BlockDescriber:
    """Describes one block.

    Args:
        block: The block.
        stack: The stack that it belongs to.
        number: Its place in there.
        config: The model's configuration.
    """

    def __init__(self, block: nn.Module, stack: Stack, number: int, config: Any) -> None:
        self._block = block
        self._record: Block = stack.block
        self._name = f"{stack.name}.{number}"
        self._layer = number
        self._config = config
        parallel = stack.block.is_parallel
        self._is_parallel = (
            bool(getattr(config, parallel, False)) if isinstance(parallel, str) else parallel
        )

    def describe(self) -> Iterator[HookSpec]:
        """Yield the block's activations in the order of the forward pass."""
        record = self._record
        yield self._spec(
            "hook_in", _STREAM, "residual stream before the block", Passing(self._block, "before"),
            aliases=("hook_resid_pre",),
        )  # fmt: skip
        yield from self._attention(record.attn, "attn")
        for mixer in record.mixers:
            yield from self._mixer(mixer)
        yield from self._norm("ln1_post", record.ln1_post)
        yield from self._attention(record.cross_attn, "cross_attn")
        yield from self._mlp()
        yield from self._norm("ln2_post", record.ln2_post)
        for name, path in record.extra.items():
            yield from self._leaf(name, self._find(path))
        yield self._spec(
            "hook_out", _STREAM, "residual stream after the block", Passing(self._block, "after"),
            aliases=("hook_resid_post",),
        )  # fmt: skip

    def _spec(
        self,
        name: str,
        shape: str,
        meaning: str,
        tap: Tap,
        aliases: tuple[str, ...] = (),
        gate: str | None = None,
    ) -> HookSpec:
        return HookSpec(
            name=f"{self._name}.{name}",
            shape=shape,
            meaning=meaning,
            tap=tap,
            aliases=tuple(f"{self._name}.{alias}" for alias in aliases),
            layer=self._layer,
            gate=gate,
        )

    def _find(self, path: str | None) -> Any:
        return find_part(self._block, path)

    def _leaf(self, name: str, module: Any) -> Iterator[HookSpec]:
        if module is not None:
            meaning = f"what {name} gives"
            yield from _describe_leaf(f"{self._name}.{name}", module, meaning, self._layer)

    def _norm(self, name: str, path: str | None) -> Iterator[HookSpec]:
        layer = self._find(path)
        if layer is None:
            return
        full, width = f"{self._name}.{name}", int(self._config.hidden_size)
        taken, given = _describe_leaf(full, layer, "the norm's result", self._layer)
        yield taken
        yield from _describe_norm(full, layer, width, self._layer)
        result = {"ln1_post": "hook_attn_out", "ln2_post": "hook_mlp_out"}.get(name)
        if result is not None and not self._record.is_post_norm:
            meaning = f"what {'attention' if name == 'ln1_post' else 'the MLP'} adds to the stream"
            given = self._spec(
                f"{name}.hook_out", _STREAM, meaning, Passing(layer, "after"), aliases=(result,)
            )
        yield given

    # Attention.

    def _attention(self, record: Attention | None, name: str) -> Iterator[HookSpec]:
        module = None if record is None else self._find(record.path)
        if record is None or module is None:
            return
        is_self = name == "attn"
        norm = self._record.ln1 if is_self else self._record.ln_cross
        heads = count_heads(module, self._config)
        parts = {which: self._projection(module, record, heads, which) for which in "qkv"}
        if is_self:
            yield from self._head_inputs(module, self._find(norm), heads, parts)
        yield from self._norm("ln1" if is_self else "ln_cross", norm)
        yield self._spec(
            f"{name}.hook_in", _STREAM, "what attention takes", Passing(module, "before")
        )
        yield from self._projections(record, name, module, parts)
        yield from self._inside(name, module, heads)
        yield from self._output(record, name, module, heads)
        for extra, path in record.extra.items():
            yield from self._leaf(f"{name}.{extra}", find_part(module, path))

    def _projection(
        self, module: nn.Module, record: Attention, heads: HeadCounts, which: str
    ) -> tuple[nn.Module, View, int] | None:
        fused = find_part(module, record.qkv)
        if fused is not None:
            view = view_fused(fused, heads, record.fusion, which)
            return fused, view, heads.queries if which == "q" else heads.keys
        own = find_part(module, getattr(record, which))
        return None if own is None else (own, *view_projection(own, heads, which))

    def _head_inputs(
        self,
        module: nn.Module,
        norm: Any,
        heads: HeadCounts,
        parts: Mapping[str, tuple[nn.Module, View, int] | None],
    ) -> Iterator[HookSpec]:
        # After a norm on the queries and keys themselves this would not be what they read.
        reader = module if norm is None else norm
        held = tuple(part for part in parts.values() if part is not None)
        if len(held) < len(parts):
            return
        yield self._spec(
            "attn.hook_attn_in", "batch pos head d_model", "the stream as each head reads it",
            HeadInput(reader, norm, held, heads.queries),
            aliases=("hook_attn_in",), gate="use_attn_in",
        )  # fmt: skip
        for which, part in zip("qkv", held, strict=True):
            yield self._spec(
                f"attn.hook_{which}_input", "batch pos head d_model",
                f"the stream as each head's {which} projection reads it",
                HeadInput(reader, norm, (part,), part[2]),
                aliases=(f"hook_{which}_input",), gate="use_split_qkv_input",
            )  # fmt: skip

    def _projections(
        self,
        record: Attention,
        name: str,
        module: nn.Module,
        parts: Mapping[str, tuple[nn.Module, View, int] | None],
    ) -> Iterator[HookSpec]:
        if find_part(module, record.qkv) is not None:
            yield from self._leaf(f"{name}.qkv", find_part(module, record.qkv))
        words = {"q": "queries", "k": "keys", "v": "values"}
        for which, part in parts.items():
            if part is None:
                continue
            projection, view, _ = part
            if getattr(record, which) is not None:
                yield self._spec(
                    f"{name}.{which}.hook_in", _STREAM, f"what the {words[which]} are made of",
                    Passing(projection, "before"),
                )  # fmt: skip
            yield self._spec(
                f"{name}.{which}.hook_out", "batch pos head d_head",
                f"{words[which]} by head, before any rotation",
                Passing(projection, "after", view), aliases=(f"{name}.hook_{which}",),
            )  # fmt: skip
        for which in ("q_norm", "k_norm"):
            layer = find_part(module, getattr(record, which))
            yield from self._leaf(f"{name}.{which}", layer)

    def _inside(self, name: str, module: nn.Module, heads: HeadCounts) -> Iterator[HookSpec]:
        if asks_for_function(module):
            for which, place in (("q", "queries"), ("k", "keys")):
                yield self._spec(
                    f"{name}.hook_rot_{which}", "batch pos head d_head",
                    f"{place} as scores are made of them", InsideAttention(module, place),
                )  # fmt: skip
        yield self._spec(
            f"{name}.hook_attn_scores", "batch head query_pos key_pos",
            "scores, scaled and masked, before softmax", InsideAttention(module, "scores"),
        )  # fmt: skip
        yield self._spec(
            f"{name}.hook_pattern", "batch head query_pos key_pos",
            "how much each position attends to each", InsideAttention(module, "pattern"),
        )  # fmt: skip

    def _output(
        self, record: Attention, name: str, module: nn.Module, heads: HeadCounts
    ) -> Iterator[HookSpec]:
        projection = find_part(module, record.o)
        is_named = self._record.ln1_post is None or self._record.is_post_norm
        prefix = "hook_" if name == "attn" else "hook_cross_"
        alias = (f"{prefix}attn_out",) if is_named else ()
        on_projection = alias if record.adds_residual else ()
        on_module = () if record.adds_residual or self._factor() else alias
        if projection is not None:
            yield self._spec(
                f"{name}.o.hook_in", "batch pos head d_head", "what each head has gathered",
                Passing(projection, "before", Heads(heads.queries)), aliases=(f"{name}.hook_z",),
            )  # fmt: skip
            yield self._spec(
                f"{name}.hook_result", "batch pos head d_model",
                "what each head writes; with the bias, their sum is attention's output",
                HeadResult(projection, heads.queries), gate="use_attn_result",
            )  # fmt: skip
            yield self._spec(
                f"{name}.o.hook_out", _STREAM, "what the heads write together",
                Passing(projection, "after"), aliases=on_projection,
            )  # fmt: skip
        yield self._spec(
            f"{name}.hook_out", _STREAM, "what attention gives", Passing(module, "after"),
            aliases=on_module,
        )  # fmt: skip
        yield from self._scaled(module, "hook_attn_out", "attention")

    def _scaled(self, module: nn.Module, name: str, what: str) -> Iterator[HookSpec]:
        factor = self._factor()
        if factor is not None:
            yield self._spec(
                name, _STREAM, f"what {what} adds to the stream", Scaled(module, factor)
            )

    def _factor(self) -> float | None:
        name = self._record.multiplier
        return None if name is None else float(getattr(self._config, name))

    # The MLP.

    def _mlp(self) -> Iterator[HookSpec]:
        record = self._record.mlp
        module = None if record is None else self._find(record.path)
        if record is None or module is None:
            return
        first = find_part(module, record.gate_in or record.in_)
        norm = self._find(self._record.ln2)
        reader = norm or (first if not record.path else module)
        if not self._is_parallel and reader is not None:
            yield from self._middle(reader)
        if norm is not None:
            yield self._spec(
                "hook_mlp_in", _STREAM, "the stream as the MLP alone reads it",
                Passing(norm, "before"), gate="use_hook_mlp_in",
            )  # fmt: skip
        yield from self._norm("ln2", self._record.ln2)
        yield from self._mlp_layers(record, module)

    def _middle(self, reader: nn.Module) -> Iterator[HookSpec]:
        record = self._record
        tap: Tap = ResidualMiddle(reader, self._block)
        if record.is_post_norm:
            # Both the MLP and its skip connection take what the first norm gives.
            norm = self._find(record.ln1_post)
            tap = Passing(norm, "after") if norm is not None else tap
        yield self._spec(
            "hook_resid_mid", _STREAM, "residual stream between attention and MLP", tap
        )

    def _mlp_layers(self, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
        out = find_part(module, record.out)
        if record.path:
            yield self._spec(
                "mlp.hook_in", _STREAM, "what the MLP takes", Passing(module, "before")
            )
        yield from self._hidden(record, module)
        is_named = self._record.ln2_post is None or self._record.is_post_norm
        alias = ("hook_mlp_out",) if is_named and not self._factor() else ()
        on_projection = alias if record.adds_residual or not record.path else ()
        if out is not None:
            yield self._spec(
                "mlp.out.hook_in", "batch pos d_mlp", "neurons after the activation function",
                Passing(out, "before"), aliases=("mlp.hook_post",),
            )  # fmt: skip
            yield self._spec(
                "mlp.out.hook_out", _STREAM, "what the neurons write",
                Passing(out, "after"), aliases=on_projection,
            )  # fmt: skip
        for extra, path in record.extra.items():
            yield from self._leaf(f"mlp.{extra}", find_part(module, path))
        if record.path:
            yield self._spec(
                "mlp.hook_out", _STREAM, "what the MLP gives", Passing(module, "after"),
                aliases=() if on_projection else alias,
            )  # fmt: skip
            yield from self._scaled(module, "hook_mlp_out", "the MLP")

    def _hidden(self, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
        inner = find_part(module, record.in_)
        gate = find_part(module, record.gate)
        fused = find_part(module, record.gate_in)
        half = width_out(fused) if fused is not None else None
        if fused is not None and half is not None:
            yield self._leaf_in("mlp.gate_in", fused)
            yield self._neurons("mlp.gate.hook_out", fused, Span(0, half // 2), "mlp.hook_pre")
            yield self._neurons(
                "mlp.in.hook_out", fused, Span(half // 2, half), "mlp.hook_pre_linear"
            )
        for name, layer in (("mlp.gate", gate), ("mlp.in", inner)):
            if layer is None:
                continue
            is_linear = name == "mlp.in" and gate is not None
            yield self._leaf_in(name, layer)
            yield self._neurons(
                f"{name}.hook_out",
                layer,
                None,
                "mlp.hook_pre_linear" if is_linear else "mlp.hook_pre",
            )
        yield from self._experts(record, module)

    def _leaf_in(self, name: str, module: nn.Module) -> HookSpec:
        return self._spec(
            f"{name}.hook_in", _STREAM, f"what {name} takes", Passing(module, "before")
        )

    def _neurons(self, name: str, module: nn.Module, view: View | None, alias: str) -> HookSpec:
        tap = Passing(module, "after") if view is None else Passing(module, "after", view)
        is_linear = alias.endswith("linear")
        meaning = (
            "what the activated half is multiplied by"
            if is_linear
            else "neurons before the activation function"
        )
        return self._spec(name, "batch pos d_mlp", meaning, tap, aliases=(alias,))

    def _experts(self, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
        router = find_part(module, record.router)
        if router is None:
            return
        yield self._leaf_in("mlp.router", router)
        names = {
            "mlp.router.hook_out": "logits of the experts",
            "mlp.hook_expert_weights": "weights of the experts chosen",
            "mlp.hook_expert_indices": "which experts were chosen",
        }
        n_items = 1 if isinstance(router, nn.Linear) else 3
        for item, (name, meaning) in list(enumerate(names.items()))[:n_items]:
            yield self._spec(
                name, "token expert" if item == 0 else "token k", meaning,
                Passing(router, "after", item=item),
            )  # fmt: skip
        yield from self._leaf("mlp.experts", find_part(module, record.experts))

    def _mixer(self, record: Mixer) -> Iterator[HookSpec]:
        module = self._find(record.path)
        if module is None:
            return
        if self._record.attn is None or self._find(self._record.attn.path) is None:
            yield from self._norm("ln1", self._record.ln1)
        yield from self._leaf(record.name, module)
        for name, path in record.parts.items():
            yield from self._leaf(f"{record.name}.{name}", find_part(module, path))
