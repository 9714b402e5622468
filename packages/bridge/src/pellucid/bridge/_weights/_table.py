"""From a record and a model to the table of its weights, under the names of TransformerLens."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pellucid.bridge._architectures._heads import count_heads
from pellucid.bridge._architectures._record import Architecture, Attention
from pellucid.bridge._names._describe import find_part, list_blocks
from pellucid.bridge._names._describe_attention import find_projection
from pellucid.bridge._names._describe_parts import BlockView
from pellucid.bridge._names._views import Heads, Span
from pellucid.bridge._weights._experts import describe_experts
from pellucid.bridge._weights._projections import width_out
from pellucid.bridge._weights._views import WeightSource, WeightView, has_parameter, storage_of

NORMS = ("ln1", "ln1_post", "ln_cross", "ln2", "ln2_post")
"""The norms on the stream that a block may have, as fields of its record."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightSpec:
    """What is known of one weight.

    Attributes:
        name: Such as "blocks.0.attn.W_Q".
        shape: Its axes, such as "head d_model d_head".
        source: What it is read from.
        n_queries: How many query heads there are, for weights of keys and values.
        reads_stream: Whether its input is the residual stream, normalised or not; keys and values
            may be made of a latent.
    """

    name: str
    shape: str
    source: WeightSource
    n_queries: int | None = None
    reads_stream: bool = True


def describe_weights(
    model: nn.Module, record: Architecture, config: Any
) -> Mapping[str, WeightSpec]:
    """Return a model's weights by name, in the order of a forward pass.

    Args:
        model: A model of transformers.
        record: What it is.
        config: Its configuration, that of its text part if it has several.
    """
    before = [name for name in record.parts if "unembed" not in name and "ln_final" not in name]
    after = [name for name in record.parts if name not in before]
    specs = [spec for name in before for spec in _describe_part(model, record, name)]
    for stack in record.stacks:
        for number, block in enumerate(list_blocks(model, stack)):
            view = BlockView(
                block=block, record=stack.others.get(number, stack.block),
                name=f"{stack.name}.{number}", layer=number, config=config,
            )  # fmt: skip
            specs.extend(_describe_block(view))
    specs.extend(spec for name in after for spec in _describe_part(model, record, name))
    return {spec.name: spec for spec in specs}


def _describe_part(model: nn.Module, record: Architecture, name: str) -> Iterator[WeightSpec]:
    module = find_part(model, record.parts[name])
    if module is None or name.endswith("rotary_emb"):
        return
    if name.endswith("unembed"):
        yield from _matrix(name, "U", module, "d_model d_vocab", "d_vocab")
    elif name.endswith("pos_embed"):
        yield from _describe_positions(name, module)
    elif name.endswith("embed"):
        yield from _matrix(name, "E", module, "d_vocab d_model", "d_model")
    else:
        yield from _describe_norm(name, module)


def _describe_positions(name: str, module: Any) -> Iterator[WeightSpec]:
    if not has_parameter(module, "weight"):
        return
    # The first rows of some tables are never read as positions.
    padding = getattr(module, "padding_idx", None)
    start = getattr(module, "offset", 0 if padding is None else padding + 1)
    view = WeightView(
        module=module, parameter="weight", storage="in_out",
        view=Span(start, module.weight.shape[0]), of_inputs=True,
    )  # fmt: skip
    yield WeightSpec(name=f"{name}.W_pos", shape="pos d_model", source=view)


def _describe_norm(
    name: str, module: nn.Module | None, shape: str = "d_model"
) -> Iterator[WeightSpec]:
    for short, parameter in (("w", "weight"), ("b", "bias")):
        if module is not None and has_parameter(module, parameter):
            view = WeightView(module=module, parameter=parameter, storage="vector")
            by_head = "head " if getattr(module, parameter).ndim == 2 else ""
            yield WeightSpec(name=f"{name}.{short}", shape=by_head + shape, source=view)


def _matrix(
    owner: str, letter: str, module: nn.Module | None, shape: str, bias_shape: str
) -> Iterator[WeightSpec]:
    """Describe a whole projection and its bias."""
    if module is None or not has_parameter(module, "weight"):
        return
    view = WeightView(module=module, parameter="weight", storage=storage_of(module))
    yield WeightSpec(name=f"{owner}.W_{letter}", shape=shape, source=view)
    if has_parameter(module, "bias"):
        bias = WeightView(module=module, parameter="bias", storage="vector")
        yield WeightSpec(name=f"{owner}.b_{letter}", shape=bias_shape, source=bias)


def _describe_block(view: BlockView) -> Iterator[WeightSpec]:
    record = view.record
    for name in NORMS:
        path = getattr(record, name)
        yield from _describe_norm(f"{view.name}.{name}", view.find(path))
    yield from _describe_attention(view, record.attn, "attn")
    yield from _describe_attention(view, record.cross_attn, "cross_attn")
    yield from _describe_mlp(view)


def _describe_attention(
    view: BlockView, record: Attention | None, name: str
) -> Iterator[WeightSpec]:
    module = None if record is None else view.find(record.path)
    if record is None or module is None:
        return
    owner = f"{view.name}.{name}"
    heads = count_heads(module, view.config)
    for which in "qkv":
        found = find_projection(view, module, record, heads, which)
        if found is None or not has_parameter(found.module, "weight"):
            continue
        letter, is_latent = which.upper(), record.kv is not None
        head = "head" if which == "q" else "kv_head"
        width = "d_in" if is_latent else "d_model"
        weight = WeightView(
            module=found.module, parameter="weight", storage=storage_of(found.module),
            view=found.view, by_head=True,
        )  # fmt: skip
        n_queries = None if which == "q" else heads.queries
        yield WeightSpec(
            name=f"{owner}.W_{letter}", shape=f"{head} {width} d_head", source=weight,
            n_queries=n_queries, reads_stream=not is_latent,
        )  # fmt: skip
        if has_parameter(found.module, "bias"):
            bias = WeightView(
                module=found.module, parameter="bias", storage="vector", view=found.view
            )
            yield WeightSpec(
                name=f"{owner}.b_{letter}", shape=f"{head} d_head", source=bias,
                n_queries=n_queries,
            )  # fmt: skip
    yield from _describe_output(owner, view.find(record.o, module), heads.queries)
    for norm in ("q_norm", "k_norm"):
        layer = view.find(getattr(record, norm), module)
        yield from _describe_norm(f"{owner}.{norm}", layer, "d_head")


def _describe_output(owner: str, module: nn.Module | None, n_heads: int) -> Iterator[WeightSpec]:
    for spec in _matrix(owner, "O", module, "head d_head d_model", "d_model"):
        if module is not None and spec.name.endswith(".W_O"):
            view = WeightView(
                module=module, parameter="weight", storage=storage_of(module),
                view=Heads(n_heads), of_inputs=True, by_head=True,
            )  # fmt: skip
            yield WeightSpec(name=spec.name, shape=spec.shape, source=view)
        else:
            yield spec


def _describe_mlp(view: BlockView) -> Iterator[WeightSpec]:
    record = view.record.mlp
    module = None if record is None else view.find(record.path)
    if record is None or module is None:
        return
    owner = f"{view.name}.mlp"
    fused = view.find(record.gate_in, module)
    if fused is not None:
        yield from _describe_halves(owner, fused)
    into = ("d_model d_mlp", "d_mlp")
    yield from _matrix(owner, "in", view.find(record.in_, module), *into)
    yield from _matrix(owner, "gate", view.find(record.gate, module), *into)
    yield from _matrix(owner, "out", view.find(record.out, module), "d_mlp d_model", "d_model")
    router, experts = view.find(record.router, module), view.find(record.experts, module)
    yield from _matrix(owner, "router", router, "d_model expert", "expert")
    if experts is not None:
        for name, (shape, source) in describe_experts(experts, record.expert_weights).items():
            yield WeightSpec(name=f"{owner}.{name}", shape=shape, source=source)


def _describe_halves(owner: str, module: nn.Module) -> Iterator[WeightSpec]:
    width = width_out(module)
    if width is None:
        return
    half = width // 2
    for letter, span in (("gate", Span(0, half)), ("in", Span(half, width))):
        weight = WeightView(
            module=module, parameter="weight", storage=storage_of(module), view=span
        )
        yield WeightSpec(name=f"{owner}.W_{letter}", shape="d_model d_mlp", source=weight)
        if has_parameter(module, "bias"):
            bias = WeightView(module=module, parameter="bias", storage="vector", view=span)
            yield WeightSpec(name=f"{owner}.b_{letter}", shape="d_mlp", source=bias)
