"""What an attention module, an MLP or a mixer consists of, found in the trace of a forward pass."""

import re
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._probe import N_TOKENS, Trace, is_same, is_sum
from pellucid.bridge._architectures._record import Attention, Mixer, Mlp, RouterItem

_NORM = re.compile(r"norm|^ln|_ln|layer_?norm", re.IGNORECASE)
_FUSED = re.compile(r"qkv|c_attn|query_key_value|w_?pack|att_proj", re.IGNORECASE)
_PROJECTIONS = {
    "q": re.compile(r"^(q|wq|query)(_|\b)|^q(uery)?_?(proj|lin)|to_q$", re.IGNORECASE),
    "k": re.compile(r"^(k|wk|key)(_|\b)|^k(ey)?_?(proj|lin)|to_k$", re.IGNORECASE),
    "v": re.compile(r"^(v|wv|value)(_|\b)|^v(alue)?_?(proj|lin)|to_v$", re.IGNORECASE),
}
_GATE = re.compile(r"gate|^w1$|wi_0", re.IGNORECASE)


def is_norm(module: nn.Module, name: str) -> bool:
    """Say whether a module is a normalisation layer, as far as names show."""
    if list(module.children()) or is_projection(module):
        return False
    return "norm" in type(module).__name__.lower() or _NORM.search(name) is not None


def is_projection(module: nn.Module) -> bool:
    """Say whether a module holds one weight matrix."""
    weight = getattr(module, "weight", None)
    # A norm with weights for each head has a matrix of them too.
    is_other = isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower()
    return isinstance(weight, Tensor) and weight.ndim == 2 and not is_other


def has_projections(module: nn.Module) -> bool:
    """Say whether weight matrices are a module's direct parts."""
    return any(is_projection(child) for child in module.children())


def read_attention(module: nn.Module, path: str, trace: Trace, *, outside: str | None) -> Attention:
    """Return what an attention module is.

    Args:
        module: The module.
        path: Where it is in its block.
        trace: A forward pass that went through it.
        outside: Where its output projection is, if it is not inside.
    """
    inner = {
        p: m
        for p, m in module.named_modules()
        if p and not list(m.children()) and trace.has(m) and "indexer" not in p
    }
    linears = sorted(
        (p for p, m in inner.items() if is_projection(m)), key=lambda p: trace.place(inner[p])
    )
    fused = next((p for p in linears if _FUSED.search(p)), None)
    latent = next((p for p in linears if p.rpartition(".")[2] == "kv_b_proj"), None)
    latent = latent if hasattr(module, "qk_nope_head_dim") else None
    chosen: dict[str, str | None] = dict.fromkeys("qkv")
    if fused is None:
        chosen = {which: _last_match(linears, pattern) for which, pattern in _PROJECTIONS.items()}
    if latent is not None:
        chosen |= dict.fromkeys("kv")
    o = outside or _find_output(module, inner, linears, {fused, latent, *chosen.values()}, trace)
    called = {p: m for p, m in module.named_modules() if p and trace.has(m)}
    norms = {
        w: next((p for p in called if re.search(rf"(^|\.){w}(uery|ey)?_?(layer)?_?norm", p)), None)
        for w in "qk"
    }
    held = {fused, latent, o, *chosen.values(), *norms.values()}
    # A norm may be made of several, one for each head: StableLM.
    parts = tuple(f"{norm}." for norm in norms.values())
    extra = {
        p.replace(".", "_"): p
        for p in inner
        if p not in held and not p.startswith(parts) and _is_worth(inner[p])
    }
    return Attention(
        path=path,
        q=chosen["q"],
        k=chosen["k"],
        v=chosen["v"],
        qkv=fused,
        kv=latent,
        o=o,
        q_norm=norms["q"],
        k_norm=norms["k"],
        heads_first=_takes_heads_first([called[p] for p in norms.values() if p], trace),
        adds_residual=o is not None and outside is None and _adds_residual(module, inner[o], trace),
        extra=MappingProxyType(extra),
    )


def _last_match(paths: list[str], pattern: re.Pattern[str]) -> str | None:
    """Return the last projection of a kind: of a chain through a latent, the one that ends it."""
    found = [p for p in paths if pattern.search(p.rpartition(".")[2])]
    return found[-1] if found else None


def _find_output(
    module: nn.Module,
    inner: dict[str, nn.Module],
    linears: list[str],
    taken: set[str | None],
    trace: Trace,
) -> str | None:
    call = trace.first(module)
    free = [p for p in linears if p not in taken]
    if call is None or not free:
        return None
    last = trace.first(inner[free[-1]])
    # What reads attention's own input is one more projection into it, not the way out.
    reads_input = last is None or any(is_same(last.taken, a) for a in call.arguments)
    return None if reads_input else free[-1]


def _takes_heads_first(norms: list[nn.Module], trace: Trace) -> bool:
    """Say whether norms take (batch, head, pos, ...): a number of positions tells positions."""
    shapes = [
        call.taken.shape for m in norms if (call := trace.first(m)) and call.taken is not None
    ]
    return any(len(shape) == 4 and shape[1] != N_TOKENS == shape[2] for shape in shapes)


def _is_worth(module: nn.Module) -> bool:
    return is_projection(module) or "norm" in type(module).__name__.lower()


def read_mlp(
    block: nn.Module, module: nn.Module | None, layers: list[nn.Module], trace: Trace, config: Any
) -> Mlp | None:
    """Return what a block's MLP is.

    Args:
        block: The block.
        module: The MLP, None if its layers are the block's own.
        layers: These, or the MLP alone.
        trace: A forward pass that went through it.
        config: The model's configuration, for its activation function.
    """
    if not layers:
        return None
    root = block if module is None else module
    paths = {m: p for p, m in root.named_modules()}
    path = "" if module is None else next(p for p, m in block.named_modules() if m is module)
    if module is not None:
        layers = [m for m in paths if is_projection(m) and trace.has(m)]
        router, experts = _find_experts(module, trace)
        if experts is not None:
            gives = () if router is None else _read_router(module.get_submodule(router), trace)
            shared = {n: n for n, m in module.named_children() if "shared" in n and trace.has(m)}
            return Mlp(
                path=path,
                router=router,
                experts=experts,
                router_gives=gives,
                extra=MappingProxyType(shared),
            )
        layers = [m for m in layers if "expert" not in paths[m]]
    layers = sorted(layers, key=trace.place)
    if len(layers) < 2:
        return Mlp(path=path)
    *before, out = layers
    roles = _assign(before, out, trace, _activations(root, config), paths)
    first = trace.first(layers[0])
    return Mlp(
        path=path,
        in_=roles.get("in_"),
        gate=roles.get("gate"),
        gate_in=roles.get("gate_in"),
        out=paths[out],
        is_flat=first is not None and first.taken is not None and first.taken.ndim == 2,
        adds_residual=module is not None and _adds_residual(module, out, trace),
    )


def _assign(
    before: list[nn.Module],
    out: nn.Module,
    trace: Trace,
    activations: list[Any],
    paths: dict[nn.Module, str],
) -> dict[str, str]:
    """Say which projection is the gate, by what the activation function makes of them."""
    hidden = trace.first(out)
    given = [call.given for m in before if (call := trace.first(m)) is not None]
    if hidden is None or hidden.taken is None:
        return {}
    if len(before) == 1:
        fused = given[0]
        is_wide = fused is not None and fused.numel() == 2 * hidden.taken.numel()
        if fused is None or not is_wide:
            return {"in_": paths[before[0]]}
        first, second = fused.chunk(2, dim=-1)
        if any(_is_gated(hidden.taken, first, second, act) for act in activations):
            return {"gate_in": paths[before[0]]}
        return {}
    for gate, other in ((0, 1), (1, 0)):
        if any(_is_gated(hidden.taken, given[gate], given[other], act) for act in activations):
            return {"gate": paths[before[gate]], "in_": paths[before[other]]}
    named = [m for m in before if _GATE.search(paths[m].rpartition(".")[2])]
    rest = [m for m in before if m not in named]
    if len(named) == 1 and len(rest) == 1:
        return {"gate": paths[named[0]], "in_": paths[rest[0]]}
    return {}


def _is_gated(hidden: Tensor, gate: Tensor | None, other: Tensor | None, act: Any) -> bool:
    if gate is None or other is None or gate.shape != other.shape:
        return False
    with torch.no_grad():
        made = act(gate)
    return isinstance(made, Tensor) and made.shape == other.shape and is_sum(hidden, made * other)


def _activations(root: nn.Module, config: Any) -> list[Any]:
    from transformers.activations import ACT2FN  # noqa: PLC0415 - costs seconds

    names = ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "mlp_act")
    found: list[Any] = [
        ACT2FN[act]
        for name in names
        if isinstance(act := getattr(config, name, None), str) and act in ACT2FN
    ]
    modules = [m for m in root.children() if not list(m.parameters()) and not list(m.children())]
    held = [v for v in vars(root).values() if callable(v)]
    own = [m.forward for m in modules if not isinstance(m, (nn.Dropout, nn.Identity))]
    return [*own, *found, *(v for v in held if "act" in getattr(v, "__name__", ""))]


def _find_experts(module: nn.Module, trace: Trace) -> tuple[str | None, str | None]:
    children = dict(module.named_children())
    router = next((n for n in ("gate", "router") if n in children and trace.has(children[n])), None)
    if router is None:
        router = next((n for n in children if "router" in n and trace.has(children[n])), None)
    experts = next((n for n in children if "expert" in n and "shared" not in n), None)
    return router, experts


def _read_router(module: nn.Module, trace: Trace) -> tuple[RouterItem | None, ...]:
    """Say what a router's items are: whole numbers choose, the widest are logits."""
    call = trace.first(module)
    items = () if call is None else call.items
    widths = [i.shape[-1] for i in items if isinstance(i, Tensor) and i.is_floating_point()]
    gives: list[RouterItem | None] = []
    for item in items:
        kind: RouterItem | None = None
        if isinstance(item, Tensor) and item.ndim >= 2:
            kind = "indices"
            if item.is_floating_point():
                kind = "logits" if item.shape[-1] == max(widths) else "weights"
        gives.append(kind if kind not in gives else None)
    return tuple(gives)


def _adds_residual(module: nn.Module, projection: nn.Module, trace: Trace) -> bool:
    """Say whether a module gets the stream as well and gives the sum: Bloom, MPT."""
    call, last = trace.first(module), trace.first(projection)
    if call is None or last is None:
        return False
    return any(is_sum(call.given, last.given, argument) for argument in call.arguments)


def read_mixer(module: nn.Module, path: str, number: int, trace: Trace) -> Mixer:
    """Return what a mixer is: the parts of it that a forward pass calls."""
    parts = {
        n: n
        for n, child in module.named_children()
        if list(child.parameters()) and trace.has(child)
    }
    return Mixer(
        path=path,
        name="mixer" if not number else f"mixer{number + 1}",
        parts=MappingProxyType(parts),
    )
