"""The activations of one MLP, dense or of experts, and the stream before it."""

from collections.abc import Iterator

from torch import nn

from pellucid.bridge._architectures._record import Mlp
from pellucid.bridge._engine._taps import Passing, ResidualMiddle, RowsOf, Scaled, Tap
from pellucid.bridge._engine._taps_experts import ExpertTap, can_part, has_neurons
from pellucid.bridge._engine._torch_hooks import Side
from pellucid.bridge._names._describe_parts import STREAM, BlockView, name_input
from pellucid.bridge._names._table import HookSpec
from pellucid.bridge._names._views import Span, View, Whole
from pellucid.bridge._weights._projections import width_out

_WHOLE = Whole()
_ROUTED = {
    "logits": ("mlp.router.hook_out", "batch pos expert", "logits of the experts"),
    "weights": ("mlp.hook_expert_weights", "batch pos k", "weights of the experts chosen"),
    "indices": ("mlp.hook_expert_indices", "batch pos k", "which experts were chosen"),
}


def describe_mlp(view: BlockView, before: str) -> Iterator[HookSpec]:
    """Yield the activations of a block's MLP; nothing if it has none.

    Args:
        view: The block.
        before: What the stream before it is called.
    """
    record = view.record.mlp
    module = None if record is None else view.find(record.path)
    if record is None or module is None:
        return
    norm = view.find(view.record.ln2)
    first = view.find(record.gate_in or record.in_, module)
    reader = norm or (module if record.path else first)
    if not view.is_parallel and reader is not None:
        yield _describe_middle(view, before, reader)
    if norm is not None:
        yield view.spec(
            "hook_mlp_in", STREAM, "the stream as the MLP alone reads it",
            _pass(view, norm, "before"), gate="use_hook_mlp_in",
        )  # fmt: skip
    yield from view.norm("ln2", view.record.ln2)
    if record.path:
        tap = _pass(view, module, "before")
        yield view.spec("mlp.hook_in", STREAM, "what the MLP takes", tap)
    yield from _describe_hidden(view, record, module)
    yield from _describe_experts(view, record, module)
    yield from _describe_output(view, record, module)


def _describe_middle(view: BlockView, name: str, reader: nn.Module) -> HookSpec:
    record = view.record
    tap: Tap = ResidualMiddle(reader, view.block)
    if record.is_post_norm:
        # Both the MLP and its skip connection take what the norm before it gives.
        path = record.ln1_post if name == "hook_resid_mid" else record.ln_cross
        norm = view.find(path)
        tap = Passing(norm, "after") if norm is not None else tap
    what = "attention to the encoder" if name == "hook_resid_mid2" else "attention"
    tap = view.rows(tap) if view.has_rows else tap
    return view.spec(name, STREAM, f"residual stream between {what} and MLP", tap)


def _pass(view: BlockView, module: nn.Module, side: Side, part: View = _WHOLE) -> Tap:
    tap = Passing(module, side, part)
    return view.rows(tap) if view.has_rows else tap


def _describe_hidden(view: BlockView, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
    fused = view.find(record.gate_in, module)
    half = width_out(fused) if fused is not None else None
    if fused is not None and half is not None:
        yield _taken(view, "mlp.gate_in", fused)
        gate, linear = Span(0, half // 2), Span(half // 2, half)
        yield _neurons(view, "mlp.gate.hook_out", fused, gate)
        yield _neurons(view, "mlp.in.hook_out", fused, linear, is_linear=True)
    gate, inner = view.find(record.gate, module), view.find(record.in_, module)
    if gate is not None:
        yield _taken(view, "mlp.gate", gate)
        yield _neurons(view, "mlp.gate.hook_out", gate)
    if inner is not None:
        yield _taken(view, "mlp.in", inner)
        yield _neurons(view, "mlp.in.hook_out", inner, is_linear=gate is not None)


def _taken(view: BlockView, name: str, module: nn.Module) -> HookSpec:
    shape = name_input(module, view.width)
    return view.spec(f"{name}.hook_in", shape, f"what {name} takes", _pass(view, module, "before"))


def _neurons(
    view: BlockView, name: str, module: nn.Module, part: View = _WHOLE, *, is_linear: bool = False
) -> HookSpec:
    if is_linear:
        meaning, alias = "what the activated half is multiplied by", "mlp.hook_pre_linear"
    else:
        meaning, alias = "neurons before the activation function", "mlp.hook_pre"
    tap = _pass(view, module, "after", part)
    return view.spec(name, "batch pos d_mlp", meaning, tap, aliases=(alias,))


def _describe_experts(view: BlockView, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
    router = view.find(record.router, module)
    if router is not None:
        yield view.spec(
            "mlp.router.hook_in", STREAM, "what the router takes",
            view.rows(Passing(router, "before")),
        )  # fmt: skip
        gives = ("logits",) if isinstance(router, nn.Linear) else record.router_gives
        for item, kind in enumerate(gives):
            if kind is not None:
                name, shape, meaning = _ROUTED[kind]
                if kind == "logits" and len(gives) > 1:
                    # The router has chosen by then: what it hands on are weights and indices.
                    meaning += ", to read; to change the choice, change weights and indices"
                tap = view.rows(Passing(router, "after", item=item))
                yield view.spec(name, shape, meaning, tap)
    experts = view.find(record.experts, module)
    yield from _describe_parted(view, experts)
    yield from view.leaf("mlp.experts", experts, has_rows=True)


def _describe_parted(view: BlockView, experts: nn.Module | None) -> Iterator[HookSpec]:
    """Yield what single experts do, where they can be told apart."""
    if experts is not None and has_neurons(experts):
        tap = RowsOf(ExpertTap(experts, is_neurons=True), view.block, n_axes=3)
        yield view.spec(
            "mlp.experts.hook_post", "batch pos k d_mlp",
            "neurons of each expert chosen, after the activation function", tap,
            gate="use_expert_results",
        )  # fmt: skip
    if experts is not None and can_part(experts):
        tap = RowsOf(ExpertTap(experts), view.block, n_axes=3)
        yield view.spec(
            "mlp.experts.hook_result", "batch pos k d_model",
            "what each expert chosen writes, weighted; their sum is what the experts give", tap,
            gate="use_expert_results",
        )  # fmt: skip


def _describe_output(view: BlockView, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
    out = view.find(record.out, module)
    is_last = view.record.ln2_post is None or view.record.is_post_norm
    alias = ("hook_mlp_out",) if is_last and view.factor is None else ()
    is_on_projection = out is not None and (record.adds_residual or not record.path)
    if out is not None:
        yield view.spec(
            "mlp.out.hook_in", "batch pos d_mlp", "neurons after the activation function",
            _pass(view, out, "before"), aliases=("mlp.hook_post",),
        )  # fmt: skip
        yield view.spec(
            "mlp.out.hook_out", STREAM, "what the neurons write",
            _pass(view, out, "after"), aliases=alias if is_on_projection else (),
        )  # fmt: skip
    for extra, path in record.extra.items():
        has_rows = view.has_rows or record.experts is not None
        yield from view.leaf(f"mlp.{extra}", view.find(path, module), has_rows=has_rows)
    if not record.path:
        return
    yield view.spec(
        "mlp.hook_out", STREAM, "what the MLP gives", _pass(view, module, "after"),
        aliases=() if is_on_projection else alias,
    )  # fmt: skip
    if view.factor is not None and is_last:
        yield view.spec(
            "hook_mlp_out", STREAM, "what the MLP adds to the stream", Scaled(module, view.factor)
        )
