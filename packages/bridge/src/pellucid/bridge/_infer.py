"""An architecture's record, found by watching how a model's modules hand tensors to each other.

Names are asked where they say more than the flow of tensors does (which of two projections is the
gate); everything else follows from who takes what whom has given.
"""

import re
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._probe import Trace, is_same, trace_forward
from pellucid.bridge._record import Architecture, Attention, Block, Mixer, Mlp, Stack

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_?forward|ffn|moe|densereludense|block_sparse", re.IGNORECASE)
_MIXER = re.compile(
    r"mixer|mamba|ssm|conv|linear_attn|delta|recurrent|rwkv|temporal|griffin|time_mix|xlstm|mlstm",
    re.IGNORECASE,
)
_NORM = re.compile(r"norm|^ln|_ln|layer_?norm", re.IGNORECASE)
_FUSED = re.compile(r"qkv|c_attn|query_key_value|w_?pack|att_proj", re.IGNORECASE)
_CROSS = re.compile(r"cross|encoder_att|enc_?dec|encdec|inter_att", re.IGNORECASE)
_PROJECTIONS = {
    "q": re.compile(r"^(q|wq|query)(_|\b)|^q(uery)?_?(proj|lin)|to_q$", re.IGNORECASE),
    "k": re.compile(r"^(k|wk|key)(_|\b)|^k(ey)?_?(proj|lin)|to_k$", re.IGNORECASE),
    "v": re.compile(r"^(v|wv|value)(_|\b)|^v(alue)?_?(proj|lin)|to_v$", re.IGNORECASE),
}


def infer_architecture(model: nn.Module) -> Architecture:
    """Return a record of a model that nobody has described.

    The model runs once on three tokens.

    Raises:
        ArchitectureError: If it has no list of blocks that a forward pass goes through.
    """
    trace = trace_forward(model)
    stacks = _find_stacks(model, trace)
    if not stacks:
        raise ArchitectureError(
            f"{type(model).__name__} has no list of blocks that a forward pass goes through. "
            "Describe it: register_architecture(Architecture(...))."
        )
    names = _name_stacks(stacks)
    return Architecture(
        classes=(type(model).__name__,),
        parts=MappingProxyType(_find_parts(model, trace, stacks)),
        stacks=tuple(
            Stack(name=name, path=path, block=_merge(list(blocks), trace))
            for name, (path, blocks) in zip(names, stacks.items(), strict=True)
        ),
        is_inferred=True,
    )


def _find_stacks(model: nn.Module, trace: Trace) -> dict[str, nn.ModuleList]:
    """Return the lists whose members hand a stream on to each other, outermost only."""
    found: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if any(path.startswith(outer + ".") for outer in found):
            continue
        calls = [trace.first(block) for block in module]
        if all(_keeps_shape(call) for call in calls):
            found[path] = module
    widest = max((_weight(blocks) for blocks in found.values()), default=0)
    # Adapters and convolutions before a stack are lists too, but small ones.
    return {path: blocks for path, blocks in found.items() if _weight(blocks) * 20 >= widest}


def _keeps_shape(call: Any) -> bool:
    if call is None or call.taken is None or call.given is None:
        return False
    taken, given = call.taken, call.given
    return taken.is_floating_point() and taken.ndim >= 3 and taken.shape == given.shape


def _weight(blocks: nn.Module) -> int:
    return sum(weight.numel() for weight in blocks.parameters())


def _name_stacks(stacks: dict[str, nn.ModuleList]) -> list[str]:
    if len(stacks) == 1:
        return ["blocks"]
    names = []
    for path in stacks:
        kind = next((k for k in ("decoder", "encoder", "vision", "audio") if k in path), None)
        name = f"{kind}_blocks" if kind else "blocks"
        names.append(name if name not in names else path.replace(".", "_"))
    return names


def _find_parts(model: Any, trace: Trace, stacks: dict[str, nn.ModuleList]) -> dict[str, str]:
    paths = {module: path for path, module in model.named_modules()}
    blocks = list(stacks.values())[-1]
    inside = {module for held in stacks.values() for module in held.modules()}
    parts: dict[str, str] = {}
    embed, unembed = model.get_input_embeddings(), model.get_output_embeddings()
    first, last = trace.first(blocks[0]), trace.first(blocks[-1])
    for module in sorted(set(paths) - inside, key=trace.place):
        call = trace.first(module)
        if call is None or module in (embed, unembed, model):
            continue
        name = paths[module].rpartition(".")[2]
        if isinstance(module, nn.Embedding) and "pos" in name:
            parts.setdefault("pos_embed", paths[module])
        elif "rotary" in type(module).__name__.lower():
            parts.setdefault("rotary_emb", paths[module])
        elif _is_norm(module, name) and first is not None and is_same(call.given, first.taken):
            parts.setdefault("embed_ln", paths[module])
        elif _is_norm(module, name) and last is not None and is_same(call.taken, last.given):
            parts["ln_final"] = paths[module]
    held = {"embed": paths.get(embed), **parts}
    held["unembed"] = paths.get(unembed) if unembed is not None else None
    return {name: found for name, found in held.items() if found is not None}


def _is_norm(module: nn.Module, name: str) -> bool:
    return "norm" in type(module).__name__.lower() or (
        _NORM.search(name) is not None and not list(module.children())
    )


def _merge(blocks: list[nn.Module], trace: Trace) -> Block:
    """Return one description for blocks that may differ: parts of one that another lacks stay."""
    merged: dict[str, Any] = {}
    mixers: dict[str, Mixer] = {}
    for block in blocks:
        found = BlockReader(block, trace).read()
        mixers.update({mixer.path: mixer for mixer in found.mixers})
        for field, value in vars(found).items():
            if value and not merged.get(field):
                merged[field] = value
    return Block(**{**merged, "mixers": tuple(mixers.values())})


class BlockReader:
    """Reads one block.

    Args:
        block: The block.
        trace: A forward pass that went through it.
    """

    def __init__(self, block: nn.Module, trace: Trace) -> None:
        self._block = block
        self._trace = trace
        self._call = trace.first(block)
        self._paths = {module: path for path, module in block.named_modules() if path}

    def read(self) -> Block:
        """Return what the block is."""
        norms, attentions, mixers, mlp = self._sort_children()
        own = next((m for m in attentions if not _CROSS.search(self._paths[m])), None)
        cross = next((m for m in attentions if m is not own), None)
        first = own or (mixers[0] if mixers else None)
        placed = self._place_norms(norms, first, cross, mlp)
        is_parallel = self._is_parallel(first, mlp, placed)
        return Block(
            **{name: self._paths[module] for name, module in placed.items()},
            attn=None if own is None else self._read_attention(own),
            cross_attn=None if cross is None else self._read_attention(cross),
            mlp=self._read_mlp(mlp),
            mixers=tuple(self._read_mixer(m, i) for i, m in enumerate(mixers)),
            is_parallel=is_parallel,
            is_post_norm=self._is_post_norm(placed),
        )

    def _sort_children(
        self,
    ) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module], nn.Module | None]:
        norms, attentions, mixers, mlps = [], [], [], []
        for path, module in self._walk(self._block, ""):
            if self._trace.first(module) is None:
                continue
            name = path.rpartition(".")[2]
            words = f"{name} {type(module).__name__}"
            if _is_norm(module, name):
                norms.append(module)
            elif not list(module.parameters()):
                continue
            elif _MIXER.search(words) and not _MLP.search(name):
                mixers.append(module)
            elif _ATTENTION.search(words):
                attentions.append(module)
            elif _MLP.search(words) or isinstance(module, nn.Linear):
                mlps.append(module)
        mlps.sort(key=self._trace.place)
        return norms, attentions, mixers, self._single(mlps)

    def _single(self, mlps: list[nn.Module]) -> nn.Module | None:
        """Return the MLP; the block itself where its layers are the block's own."""
        whole = [module for module in mlps if not isinstance(module, nn.Linear)]
        if whole:
            return max(whole, key=_weight)
        return self._block if len(mlps) > 1 else None

    def _walk(self, module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
        """Return the parts of a block, looking through containers that are none themselves."""
        found: list[tuple[str, nn.Module]] = []
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            words = f"{name} {type(child).__name__}"
            known = _is_norm(child, name) or isinstance(child, nn.Linear)
            known = known or any(p.search(words) for p in (_ATTENTION, _MLP, _MIXER))
            if known and not self._holds_attention(child):
                found.append((path, child))
            elif list(child.children()):
                found.extend(self._walk(child, f"{path}."))
        return found

    def _holds_attention(self, module: nn.Module) -> bool:
        """Say whether a module is a shell with attention and its norm inside: BERT, T5."""
        children = dict(module.named_children())
        has_norm = any(_is_norm(child, name) for name, child in children.items())
        inner = [c for n, c in children.items() if _ATTENTION.search(f"{n} {type(c).__name__}")]
        is_shell = any(list(child.children()) for child in inner)
        return is_shell and (has_norm or len(children) > 1) and not _has_projections(module)

    def _place_norms(
        self,
        norms: list[nn.Module],
        first: nn.Module | None,
        cross: nn.Module | None,
        mlp: nn.Module | None,
    ) -> dict[str, nn.Module]:
        placed: dict[str, nn.Module] = {}
        ends = {"ln1": first, "ln_cross": cross, "ln2": mlp}
        for norm in sorted(norms, key=self._trace.place):
            call = self._trace.first(norm)
            if call is None:
                continue
            role = self._role_before(call, ends) or self._role_after(call, first, mlp, placed)
            if role is not None and role not in placed:
                placed[role] = norm
        return placed

    def _role_before(self, call: Any, ends: dict[str, nn.Module | None]) -> str | None:
        for role, part in ends.items():
            if part is not None and self._takes(part, call.given):
                return role
        return None

    def _takes(self, part: nn.Module, tensor: Tensor | None) -> bool:
        modules = [part] if part is not self._block else self._own_linears()
        calls = (self._trace.first(module) for module in modules)
        return any(is_same(call.taken, tensor) for call in calls if call is not None)

    def _role_after(
        self, call: Any, first: nn.Module | None, mlp: nn.Module | None, placed: dict[str, Any]
    ) -> str | None:
        for role, part in (("ln1_post", first), ("ln2_post", mlp)):
            result = self._trace.first(part) if part is not self._block else None
            if result is not None and is_same(call.taken, result.given):
                return role
        if self._call is not None and is_same(call.given, self._call.given):
            return "ln2_post"
        if first is not None and "ln1" not in placed:
            return "ln1_post" if self._trace.place(call.module) > self._trace.place(first) else None
        return None

    def _is_parallel(
        self, first: nn.Module | None, mlp: nn.Module | None, placed: dict[str, nn.Module]
    ) -> bool:
        if first is None or mlp is None or self._call is None:
            return False
        reader = placed.get("ln2")
        if reader is not None:
            call = self._trace.first(reader)
            return call is not None and is_same(call.taken, self._call.taken)
        before = self._trace.first(placed.get("ln1"))
        given = self._call.taken if before is None else before.given
        return self._takes(mlp, given)

    def _is_post_norm(self, placed: dict[str, nn.Module]) -> bool:
        last = self._trace.first(placed.get("ln2_post"))
        return last is not None and self._call is not None and is_same(last.given, self._call.given)

    def _own_linears(self) -> list[nn.Module]:
        return [m for m in self._block.children() if isinstance(m, nn.Linear)]

    def _read_attention(self, module: nn.Module) -> Attention:
        inner = {path: m for path, m in module.named_modules() if path and not list(m.children())}
        linears = [p for p, m in inner.items() if _is_projection(m)]
        chosen = {which: _match(linears, pattern) for which, pattern in _PROJECTIONS.items()}
        fused = next((path for path in linears if _FUSED.search(path)), None)
        if fused is not None or None in chosen.values():
            chosen = dict.fromkeys(chosen) if fused is not None else chosen
        call = self._trace.first(module)
        called = sorted(linears, key=lambda path: self._trace.place(inner[path]))
        o = called[-1] if called and call is not None else None
        o = None if o in (fused, *chosen.values()) else o
        norms = {
            w: _match(inner, re.compile(rf"(^|\.){w}(uery|ey)?_?(layer)?_?norm")) for w in "qk"
        }
        return Attention(
            path=self._paths[module],
            **chosen,
            qkv=fused,
            o=o,
            q_norm=norms["q"],
            k_norm=norms["k"],
            adds_residual=o is not None
            and fused is not None
            and self._adds_residual(module, inner[o]),
        )

    def _read_mlp(self, module: nn.Module | None) -> Mlp | None:
        if module is None:
            return None
        path = "" if module is self._block else self._paths[module]
        children = {n: m for n, m in module.named_modules() if _is_projection(m) and "." not in n}
        if not path:
            children = {n: m for n, m in children.items() if not _ATTENTION.search(n)}
        router = next((n for n, _ in module.named_children() if n in ("gate", "router")), None)
        experts = next(
            (n for n, _ in module.named_children() if "expert" in n and "shared" not in n), None
        )
        if experts is not None:
            return Mlp(path=path, router=router, experts=experts)
        called = sorted(children, key=lambda name: self._trace.place(children[name]))
        if not called:
            return Mlp(path=path)
        *before, out = called
        gate = next((n for n in before if re.search(r"gate|^w1$|wi_0", n)), None)
        if len(before) == 1 and gate is not None and re.search(r"gate.*up|gate_up", gate):
            return Mlp(path=path, gate_in=gate, out=out)
        inner = next((n for n in before if n != gate), None)
        return Mlp(
            path=path,
            in_=inner or gate,
            gate=gate if inner else None,
            out=out,
            adds_residual=self._adds_residual(module, children[out]),
        )

    def _adds_residual(self, module: nn.Module, projection: nn.Module) -> bool:
        """Say whether a module gets the stream as well and gives the sum: Bloom, MPT."""
        call, last = self._trace.first(module), self._trace.first(projection)
        if call is None or last is None or len(call.arguments) < 2:
            return False
        return not is_same(call.given, last.given)

    def _read_mixer(self, module: nn.Module, number: int) -> Mixer:
        parts = {n: n for n, child in module.named_children() if list(child.parameters())}
        return Mixer(
            path=self._paths[module],
            name="mixer" if not number else f"mixer{number + 1}",
            parts=MappingProxyType(parts),
        )


def _is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _has_projections(module: nn.Module) -> bool:
    return any(_is_projection(child) for child in module.children())


def _match(paths: Any, pattern: re.Pattern[str]) -> str | None:
    return next((path for path in paths if pattern.search(path.rpartition(".")[2])), None)
