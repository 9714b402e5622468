"""What one block is, found in the trace of a forward pass."""

import dataclasses
import re
from typing import Any

from torch import Tensor, nn

from pellucid.bridge._architectures._heads import count_heads
from pellucid.bridge._architectures._infer_parts import (
    has_projections,
    is_norm,
    read_attention,
    read_mixer,
    read_mlp,
)
from pellucid.bridge._architectures._probe import Trace, is_same, is_sum
from pellucid.bridge._architectures._record import Block
from pellucid.bridge._errors import ArchitectureError

_ATTENTION = re.compile(r"attention|attn|self_att", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_?forward|ffn|moe|densereludense|block_sparse", re.IGNORECASE)
_MIXER = re.compile(
    r"mixer|mamba|ssm|conv|linear_attn|delta|recurrent|rwkv|temporal|griffin|time_mix|xlstm|mlstm",
    re.IGNORECASE,
)
_CROSS = re.compile(r"cross|encoder_att|enc_?dec|encdec|inter_att", re.IGNORECASE)


@dataclasses.dataclass(eq=False)
class _Parts:
    """A block's parts by kind, each list in the order of the forward pass."""

    norms: list[nn.Module] = dataclasses.field(default_factory=list[nn.Module])
    attentions: list[nn.Module] = dataclasses.field(default_factory=list[nn.Module])
    mixers: list[nn.Module] = dataclasses.field(default_factory=list[nn.Module])
    mlps: list[nn.Module] = dataclasses.field(default_factory=list[nn.Module])
    linears: list[nn.Module] = dataclasses.field(default_factory=list[nn.Module])


def read_block(block: nn.Module, trace: Trace, config: Any) -> Block:
    """Return what a block is.

    Args:
        block: The block.
        trace: A forward pass that went through it.
        config: The model's configuration.
    """
    return _BlockReader(block, trace, config).read()


class _BlockReader:
    def __init__(self, block: nn.Module, trace: Trace, config: Any) -> None:
        self._block = block
        self._trace = trace
        self._config = config
        self._call = trace.first(block)
        self._paths = {module: path for path, module in block.named_modules() if path}

    def read(self) -> Block:
        parts = self._sort()
        own = next((m for m in parts.attentions if not self._is_cross(m)), None)
        cross = next((m for m in parts.attentions if self._is_cross(m)), None)
        for attention in (own, cross):
            outside = self._outside_projection(attention, parts.linears)
            if outside is not None:
                parts.linears.remove(outside)
        mlp = max(parts.mlps, key=_weight) if parts.mlps else None
        readers = self._readers(mlp, parts)
        placed = self._place_norms(parts, own, cross, readers)
        is_post_norm = self._is_post_norm(parts.norms)
        if is_post_norm:
            placed = self._place_post_norms(parts.norms, own, cross)
        found = {role: self._paths[module] for role, module in placed.items()}
        first = own or (parts.mixers[0] if parts.mixers else None)
        return Block(
            ln1=found.get("ln1"),
            ln2=found.get("ln2"),
            ln1_post=found.get("ln1_post"),
            ln2_post=found.get("ln2_post"),
            ln_cross=found.get("ln_cross"),
            attn=self._attention(own),
            cross_attn=self._attention(cross),
            mlp=read_mlp(self._block, mlp, readers, self._trace, self._config),
            mixers=tuple(
                read_mixer(m, self._paths[m], number, self._trace)
                for number, m in enumerate(parts.mixers)
            ),
            is_parallel=not is_post_norm and self._is_parallel(first, readers, placed),
            is_post_norm=is_post_norm,
            multiplier=self._multiplier(own, mlp, placed),
        )

    # Which part is what.

    def _sort(self) -> _Parts:
        parts = _Parts()
        for path, module in self._walk(self._block, ""):
            if not self._trace.has(module):
                continue
            self._list_for(parts, path, module).append(module)
        for module in [m for m in parts.attentions if not self._has_heads(m)]:
            # RWKV calls attention what has no heads that look at positions.
            parts.attentions.remove(module)
            parts.mixers.append(module)
        for held in vars(parts).values():
            held.sort(key=self._trace.place)
        return parts

    def _has_heads(self, module: nn.Module) -> bool:
        try:
            count_heads(module, self._config)
        except ArchitectureError:
            return False
        return True

    def _list_for(self, parts: _Parts, path: str, module: nn.Module) -> list[nn.Module]:
        name = path.rpartition(".")[2]
        kind = self._kind_of(name, module)
        if kind == "norm":
            return parts.norms
        if not list(module.parameters()):
            return []
        if kind == "linear":
            return parts.linears
        return {"mixer": parts.mixers, "attention": parts.attentions, "mlp": parts.mlps}.get(
            kind or "", []
        )

    def _kind_of(self, name: str, module: nn.Module) -> str | None:
        if is_norm(module, name):
            return "norm"
        if isinstance(module, nn.Linear):
            return "linear"
        # Without the model's own name, which may well be that of a kind: RecurrentGemmaMLP.
        block, own = type(self._block).__name__, type(module).__name__
        own = own[_count_shared(block, own) :]
        if _MLP.search(name):
            return "mlp"
        if _MIXER.search(own) or (_MIXER.search(name) and not _ATTENTION.search(own)):
            return "mixer"
        if _ATTENTION.search(f"{name} {own}"):
            return "attention"
        return "mlp" if _MLP.search(own) else None

    def _walk(self, module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
        """Return the parts of a block, looking through containers that are none themselves."""
        found: list[tuple[str, nn.Module]] = []
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if self._kind_of(name, child) is not None and not self._is_shell(child):
                found.append((path, child))
            elif list(child.children()):
                found.extend(self._walk(child, f"{path}."))
        return found

    def _is_shell(self, module: nn.Module) -> bool:
        """Say whether a module only holds a part and its norm: BERT, T5."""
        if has_projections(module):
            return False
        children = dict(module.named_children())
        kinds = {self._kind_of(name, child) for name, child in children.items()}
        holds = any(
            list(child.children()) and self._kind_of(name, child) in ("attention", "mlp")
            for name, child in children.items()
        )
        return holds and (
            "norm" in kinds or (len(children) > 1 and "expert" not in "".join(children))
        )

    def _is_cross(self, module: nn.Module) -> bool:
        return _CROSS.search(self._paths[module]) is not None

    def _outside_projection(
        self, attention: nn.Module | None, linears: list[nn.Module]
    ) -> nn.Module | None:
        call = self._trace.first(attention)
        if attention is None or call is None:
            return None
        return next((m for m in linears if is_same(self._taken(m), call.given)), None)

    def _attention(self, module: nn.Module | None) -> Any:
        if module is None:
            return None
        free = [m for m in self._paths if isinstance(m, nn.Linear)]
        outside = self._outside_projection(module, [m for m in free if self._trace.has(m)])
        path = None if outside is None else f".{self._paths[outside]}"
        return read_attention(module, self._paths[module], self._trace, outside=path)

    def _readers(self, mlp: nn.Module | None, parts: _Parts) -> list[nn.Module]:
        """Return what the MLP consists of: itself, or the layers that the block has for it."""
        if mlp is not None:
            return [mlp]
        return parts.linears if len(parts.linears) > 1 else []

    # Where norms stand.

    def _taken(self, module: nn.Module | None) -> Tensor | None:
        call = self._trace.first(module)
        return None if call is None else call.taken

    def _given(self, module: nn.Module | None) -> Tensor | None:
        call = self._trace.first(module)
        return None if call is None else call.given

    def _place_norms(
        self,
        parts: _Parts,
        own: nn.Module | None,
        cross: nn.Module | None,
        readers: list[nn.Module],
    ) -> dict[str, nn.Module]:
        firsts = [m for m in (own, *parts.mixers) if m is not None]
        before = {"ln1": firsts, "ln_cross": [cross] if cross else [], "ln2": readers}
        after = {"ln1_post": firsts, "ln2_post": readers[-1:]}
        placed: dict[str, nn.Module] = {}
        for norm in parts.norms:
            roles = [
                *(r for r, held in before.items() if self._feeds(norm, held)),
                *(r for r, held in after.items() if self._follows(norm, held)),
            ]
            if not roles and firsts and self._is_first(norm, firsts):
                roles = ["ln1"]
            role = next((r for r in roles if r not in placed), None)
            if role is not None:
                placed[role] = norm
        return placed

    def _feeds(self, norm: nn.Module, readers: list[nn.Module]) -> bool:
        given = self._given(norm)
        return any(
            is_same(argument, given)
            for reader in readers
            if (call := self._trace.first(reader)) is not None
            for argument in (call.taken, *call.arguments)
        )

    def _follows(self, norm: nn.Module, writers: list[nn.Module]) -> bool:
        return any(is_same(self._given(writer), self._taken(norm)) for writer in writers)

    def _is_first(self, norm: nn.Module, firsts: list[nn.Module]) -> bool:
        """Say whether a norm reads the block's stream before anything else: multiplied after."""
        if self._call is None or not is_same(self._taken(norm), self._call.taken):
            return False
        return all(self._trace.place(norm) < self._trace.place(first) for first in firsts)

    def _is_post_norm(self, norms: list[nn.Module]) -> bool:
        if not norms or self._call is None:
            return False
        # The last norm gives the block's output, and what it takes is a sum, not one part's result.
        return is_same(self._given(norms[-1]), self._call.given)

    def _place_post_norms(
        self, norms: list[nn.Module], own: nn.Module | None, cross: nn.Module | None
    ) -> dict[str, nn.Module]:
        after = [n for n in norms if own is None or self._trace.place(n) > self._trace.place(own)]
        roles = ["ln1_post", "ln_cross", "ln2_post"] if cross else ["ln1_post", "ln2_post"]
        return dict(zip(roles, after, strict=True)) if len(after) == len(roles) else {}

    # How results join the stream.

    def _is_parallel(
        self, first: nn.Module | None, readers: list[nn.Module], placed: dict[str, nn.Module]
    ) -> bool:
        if first is None or not readers or self._call is None:
            return False
        norm = placed.get("ln2")
        if norm is not None:
            return is_same(self._taken(norm), self._call.taken)
        stream = self._given(placed["ln1"]) if "ln1" in placed else self._call.taken
        return is_same(self._taken(readers[0]), stream)

    def _multiplier(
        self, own: nn.Module | None, mlp: nn.Module | None, placed: dict[str, nn.Module]
    ) -> float | None:
        """Return the factor of both results, if it is one and not 1."""
        mid = self._taken(placed.get("ln2"))
        if self._call is None or mid is None or "ln1_post" in placed or "ln2_post" in placed:
            return None
        factors = [
            _factor(mid, self._call.taken, self._given(own)),
            _factor(self._call.given, mid, self._given(mlp)),
        ]
        if None in factors or factors[0] is None or factors[1] is None:
            return None
        same = abs(factors[0] - factors[1]) < 1e-3 * abs(factors[0])
        return round(factors[0], 5) if same and abs(factors[0] - 1) > 1e-3 else None


def _count_shared(first: str, second: str) -> int:
    """Return with how many letters two names begin alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _factor(total: Tensor | None, stream: Tensor | None, result: Tensor | None) -> float | None:
    if total is None or stream is None or result is None:
        return None
    if not total.numel() == stream.numel() == result.numel():
        return None
    added, made = (total - stream).float().flatten(), result.float().flatten()
    if not made.abs().max() > 0:
        return None
    factor = float((added @ made) / (made @ made))
    return factor if is_sum(total, stream, result * factor) else None


def _weight(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
