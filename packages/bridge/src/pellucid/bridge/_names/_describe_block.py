"""The activations of one block, in the order of a forward pass."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pellucid.bridge._architectures._record import Mixer, Stack
from pellucid.bridge._engine._taps import Passing, ResidualMiddle, RowsOf
from pellucid.bridge._names._describe_attention import describe_attention
from pellucid.bridge._names._describe_mlp import describe_mlp
from pellucid.bridge._names._describe_parts import STREAM, BlockView
from pellucid.bridge._names._describe_states import describe_state_space, name_as_state_space
from pellucid.bridge._names._table import HookSpec
from pellucid.bridge._weights._projections import width_in
from pellucid.core import ActivationSource


def describe_block(block: nn.Module, stack: Stack, number: int, config: Any) -> Iterator[HookSpec]:
    """Yield one block's activations.

    Args:
        block: The block.
        stack: The stack that it belongs to.
        number: Its place in there.
        config: The model's configuration.
    """
    record = stack.others.get(number, stack.block)
    view = BlockView(
        block=block, record=record, name=f"{stack.name}.{number}", layer=number, config=config
    )
    yield view.spec(
        "hook_in", STREAM, "residual stream before the block", Passing(block, "before"),
        aliases=("hook_resid_pre",),
    )  # fmt: skip
    yield from describe_attention(view, record.attn, "attn")
    for mixer in record.mixers:
        yield from _describe_mixer(view, mixer)
    yield from _describe_sources(view)
    yield from view.norm("ln1_post", record.ln1_post)
    has_cross = record.cross_attn is not None and view.find(record.cross_attn.path) is not None
    if has_cross:
        yield from _describe_before_cross(view)
        yield from describe_attention(view, record.cross_attn, "cross_attn")
        if record.is_post_norm:
            yield from view.norm("ln_cross", record.ln_cross)
    yield from describe_mlp(view, "hook_resid_mid2" if has_cross else "hook_resid_mid")
    yield from view.norm("ln2_post", record.ln2_post)
    for name, path in record.extra.items():
        yield from view.leaf(name, view.find(path))
    yield view.spec(
        "hook_out", STREAM, "residual stream after the block", Passing(block, "after"),
        aliases=("hook_resid_post",),
    )  # fmt: skip


def _describe_before_cross(view: BlockView) -> Iterator[HookSpec]:
    record = view.record
    after, reader = view.find(record.ln1_post), view.find(record.ln_cross)
    meaning = "residual stream between self-attention and attention to the encoder"
    if record.is_post_norm and after is not None:
        yield view.spec("hook_resid_mid", STREAM, meaning, Passing(after, "after"))
    elif reader is not None:
        later = tuple(m for m in (view.find(record.ln2),) if m is not None)
        tap = ResidualMiddle(reader, view.block, later)
        yield view.spec("hook_resid_mid", STREAM, meaning, tap)


def _describe_sources(view: BlockView) -> Iterator[HookSpec]:
    """Yield what modules of the block name by themselves."""
    for module in view.block.modules():
        if isinstance(module, ActivationSource):
            for name, held in module.named_activations().items():
                yield view.spec(name, held.shape, held.meaning, Passing(held.module, "after"))


def _describe_mixer(view: BlockView, record: Mixer) -> Iterator[HookSpec]:
    module = view.find(record.path)
    if module is None:
        return
    attention = view.record.attn
    if attention is None or view.find(attention.path) is None:
        yield from view.norm("ln1", view.record.ln1)
    quantities = list(describe_state_space(view, record.name, module))
    for spec in _describe_modules(view, record, module):
        yield name_as_state_space(spec, f"{view.name}.{record.name}") if quantities else spec
    yield from quantities


def _describe_modules(view: BlockView, record: Mixer, module: nn.Module) -> Iterator[HookSpec]:
    yield from view.leaf(record.name, module)
    parts = {name: view.find(path, module) for name, path in record.parts.items()}
    for name, part in parts.items():
        specs = view.leaf(f"{record.name}.{name}", part)
        if _is_by_head(part, parts.get("out_proj")):
            specs = (
                replace(s, shape="batch pos head d_head", tap=RowsOf(s.tap, view.block, True))
                for s in specs
            )
        yield from specs


def _is_by_head(part: nn.Module | None, out: nn.Module | None) -> bool:
    """Say whether a norm is for each head what the projection after it takes together."""
    weight, width = getattr(part, "weight", None), None if out is None else width_in(out)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or width is None:
        return False
    return len(weight) < width and not width % len(weight)
