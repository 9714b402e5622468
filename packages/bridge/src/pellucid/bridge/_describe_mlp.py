"""The activations of one MLP, dense or of experts, and the stream before it."""

from collections.abc import Iterator

from torch import nn

from pellucid.bridge._describe_parts import STREAM, BlockView
from pellucid.bridge._record import Mlp
from pellucid.bridge._table import HookSpec
from pellucid.bridge._taps import Passing, ResidualMiddle, Scaled, Tap
from pellucid.bridge._views import Span, View, Whole
from pellucid.bridge._weights import width_out

_ROUTED = {
    "logits": ("mlp.router.hook_out", "token expert", "logits of the experts"),
    "weights": ("mlp.hook_expert_weights", "token k", "weights of the experts chosen"),
    "indices": ("mlp.hook_expert_indices", "token k", "which experts were chosen"),
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
            Passing(norm, "before"), gate="use_hook_mlp_in",
        )  # fmt: skip
    yield from view.norm("ln2", view.record.ln2)
    if record.path:
        yield view.spec("mlp.hook_in", STREAM, "what the MLP takes", Passing(module, "before"))
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
    return view.spec(name, STREAM, f"residual stream between {what} and MLP", tap)


def _describe_hidden(view: BlockView, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
    fused = view.find(record.gate_in, module)
    half = width_out(fused) if fused is not None else None
    if fused is not None and half is not None:
        yield _taken(view, record, "mlp.gate_in", fused)
        gate, linear = Span(0, half // 2), Span(half // 2, half)
        yield _neurons(view, record, "mlp.gate.hook_out", fused, gate)
        yield _neurons(view, record, "mlp.in.hook_out", fused, linear, is_linear=True)
    gate, inner = view.find(record.gate, module), view.find(record.in_, module)
    if gate is not None:
        yield _taken(view, record, "mlp.gate", gate)
        yield _neurons(view, record, "mlp.gate.hook_out", gate)
    if inner is not None:
        yield _taken(view, record, "mlp.in", inner)
        yield _neurons(view, record, "mlp.in.hook_out", inner, is_linear=gate is not None)


def _taken(view: BlockView, record: Mlp, name: str, module: nn.Module) -> HookSpec:
    tap = Passing(module, "before", rows_of=_rows(view, record))
    return view.spec(f"{name}.hook_in", STREAM, f"what {name} takes", tap)


def _rows(view: BlockView, record: Mlp) -> nn.Module | None:
    return view.block if record.is_flat else None


def _neurons(
    view: BlockView,
    record: Mlp,
    name: str,
    module: nn.Module,
    part: View | None = None,
    *,
    is_linear: bool = False,
) -> HookSpec:
    tap = Passing(module, "after", part or Whole(), rows_of=_rows(view, record))
    if is_linear:
        meaning, alias = "what the activated half is multiplied by", "mlp.hook_pre_linear"
    else:
        meaning, alias = "neurons before the activation function", "mlp.hook_pre"
    return view.spec(name, "batch pos d_mlp", meaning, tap, aliases=(alias,))


def _describe_experts(view: BlockView, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
    router = view.find(record.router, module)
    if router is not None:
        yield view.spec(
            "mlp.router.hook_in", STREAM, "what the router takes", Passing(router, "before")
        )
        gives = ("logits",) if isinstance(router, nn.Linear) else record.router_gives
        for item, kind in enumerate(gives):
            if kind is not None:
                name, shape, meaning = _ROUTED[kind]
                if kind == "logits" and len(gives) > 1:
                    # The router has chosen by then: what it hands on are weights and indices.
                    meaning += ", to read; to change the choice, change weights and indices"
                yield view.spec(name, shape, meaning, Passing(router, "after", item=item))
    yield from view.leaf("mlp.experts", view.find(record.experts, module))


def _describe_output(view: BlockView, record: Mlp, module: nn.Module) -> Iterator[HookSpec]:
    out = view.find(record.out, module)
    rows = _rows(view, record)
    is_last = view.record.ln2_post is None or view.record.is_post_norm
    alias = ("hook_mlp_out",) if is_last and view.factor is None else ()
    is_on_projection = out is not None and (record.adds_residual or not record.path)
    if out is not None:
        yield view.spec(
            "mlp.out.hook_in", "batch pos d_mlp", "neurons after the activation function",
            Passing(out, "before", rows_of=rows), aliases=("mlp.hook_post",),
        )  # fmt: skip
        yield view.spec(
            "mlp.out.hook_out", STREAM, "what the neurons write",
            Passing(out, "after", rows_of=rows), aliases=alias if is_on_projection else (),
        )  # fmt: skip
    for extra, path in record.extra.items():
        yield from view.leaf(f"mlp.{extra}", view.find(path, module))
    if not record.path:
        return
    yield view.spec(
        "mlp.hook_out", STREAM, "what the MLP gives", Passing(module, "after", rows_of=rows),
        aliases=() if is_on_projection else alias,
    )  # fmt: skip
    if view.factor is not None and is_last:
        yield view.spec(
            "hook_mlp_out", STREAM, "what the MLP adds to the stream", Scaled(module, view.factor)
        )
