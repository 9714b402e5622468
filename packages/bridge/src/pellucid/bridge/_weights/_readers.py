"""Which projections read what a norm gives, seen in one forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._probe import Call, is_same
from pellucid.bridge._architectures._record import ExpertWeights
from pellucid.bridge._weights._experts import read_declaration
from pellucid.bridge._weights._ground import Ground
from pellucid.bridge._weights._views import Storage, storage_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """One weight matrix, or a stack of them, that reads a norm's output.

    Attributes:
        module: Whose parameter it is.
        weight: The parameter's name; bias: that of its bias.
        storage: How it is laid out.
        is_gate: Whether it gates neurons.
        factor: What the norm's output is multiplied by on its way.
        takes_bias: Whether a bias can be added where there is none.
    """

    module: nn.Module
    weight: str
    bias: str
    storage: Storage
    is_gate: bool = False
    factor: float = 1.0
    takes_bias: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadNorm:
    """A norm whose output is read by projections and by nothing else.

    Attributes:
        name: Such as "blocks.0.ln1".
        norm: The norm.
        readers: What reads it.
        obstacle: Why it cannot be folded into these, None if it can.
    """

    name: str
    norm: nn.Module
    readers: tuple[Reader, ...]
    obstacle: str | None = None


def find_readers(ground: Ground) -> list[ReadNorm]:
    """Return the norms that stand before projections: those in blocks, and final ones.

    Norms of queries and keys are none of these, nor norms of what attention and MLP give.
    """
    places = _index(ground)
    roles = dict(_list_roles(ground))
    found: dict[nn.Module, ReadNorm] = {}
    for name, norm in _list_norms(ground):
        if norm not in found:
            found[norm] = _read(ground, name, norm, places, roles)
    return _refuse_shared(list(found.values()), ground)


def _list_norms(ground: Ground) -> Iterator[tuple[str, nn.Module]]:
    for view in ground.blocks():
        if view.record.is_post_norm:
            continue
        for short in ("ln1", "ln_cross", "ln2"):
            norm = view.find(getattr(view.record, short))
            if norm is not None and not isinstance(norm, nn.Identity):
                yield f"{view.name}.{short}", norm
    yield from ground.parts("ln_final")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Role:
    """What a module is that takes a norm's output and is no plain projection."""

    is_gate: bool = False
    is_router: bool = False
    experts: nn.Module | None = None
    layout: ExpertWeights | None = None


_PLAIN = _Role()


def _list_roles(ground: Ground) -> Iterator[tuple[nn.Module, _Role]]:
    for view in ground.blocks():
        record = view.record.mlp
        module = None if record is None else view.find(record.path)
        if record is None or module is None:
            continue
        gate, router = view.find(record.gate, module), view.find(record.router, module)
        experts = view.find(record.experts, module)
        if gate is not None:
            yield gate, _Role(is_gate=True)
        if router is not None:
            yield router, _Role(is_router=True)
        layout = record.expert_weights or (experts and read_declaration(experts))
        if experts is not None and layout is not None:
            # A list is no module that is called: what takes the norm's output is the MLP.
            taker = module if layout.is_list else experts
            yield taker, _Role(experts=experts, layout=layout)


_Places = dict[tuple[Any, ...], list[Call]]


def _index(ground: Ground) -> _Places:
    """Return calls by what they take, so that those that take the same are found at once."""
    places: _Places = {}
    for call in ground.trace.calls:
        if call.taken is not None and call.taken.is_floating_point() and call.taken.numel():
            places.setdefault(_key(call.taken), []).append(call)
    return places


def _key(held: Tensor) -> tuple[Any, ...]:
    return held.numel(), held.dtype, float(held.flatten()[0])


def _read(
    ground: Ground, name: str, norm: nn.Module, places: _Places, roles: dict[nn.Module, _Role]
) -> ReadNorm:
    given = [c.given for c in ground.trace.calls if c.module is norm and c.given is not None]
    taking: dict[nn.Module, float] = {}
    for held in given:
        for call in places.get(_key(held), []):
            if call.module is not norm and is_same(call.taken, held):
                taking[call.module] = 1.0
        if name.endswith("ln_final"):
            taking |= {m: f for m, f in _find_scaled(ground, held).items() if m not in taking}
    readers: list[Reader] = []
    for module, factor in taking.items():
        made = _describe_reader(module, roles.get(module, _PLAIN), factor)
        if made is None:
            where = ground.paths.get(module, type(module).__name__)
            problem = f"{name} is read by {where}, of which it is not known how it keeps weights"
            return ReadNorm(name=name, norm=norm, readers=(), obstacle=problem)
        known = {(r.module, r.weight) for r in readers}
        readers.extend(r for r in made if (r.module, r.weight) not in known)
    obstacle = None if readers else f"no projection reads what {name} gives as it is"
    return ReadNorm(name=name, norm=norm, readers=tuple(readers), obstacle=obstacle)


def _find_scaled(ground: Ground, given: Tensor) -> dict[nn.Module, float]:
    """Return the unembedding if it takes a multiple of what a final norm gives: T5."""
    for _, module in ground.parts("unembed"):
        call = ground.trace.first(module)
        if call is None or call.taken is None or call.taken.numel() != given.numel():
            continue
        taken, norm = call.taken.flatten().double(), given.flatten().double()
        factor = float(taken @ norm / (norm @ norm))
        if factor and torch.allclose(taken, factor * norm, rtol=1e-5, atol=1e-6 * abs(factor)):
            return {module: factor}
    return {}


def _describe_reader(module: nn.Module, role: _Role, factor: float) -> list[Reader] | None:
    """Return the weights of what takes a norm's output; None if it is not known which."""
    if role.experts is not None and role.layout is not None:
        return _describe_experts(role.experts, role.layout)
    own = dict(module.named_parameters(recurse=False))
    is_plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    if is_plain or (role.is_router and "weight" in own and own["weight"].ndim == 2):
        return [
            Reader(
                module=module, weight="weight", bias="bias", storage=storage_of(module),
                is_gate=role.is_gate, factor=factor, takes_bias=is_plain,
            )
        ]  # fmt: skip
    # A group of layers hands on what it takes, and so does what has no weights, not even packed.
    has_own = bool(own) or any(True for _ in module.buffers(recurse=False))
    return [] if list(module.children()) or not has_own else None


def _describe_experts(module: nn.Module, record: ExpertWeights) -> list[Reader] | None:
    names = [name for name in (record.gate_in, record.gate, record.in_) if name is not None]
    if record.is_list:
        layers = [
            (name, layer)
            for expert in module.children()
            for name in names
            if (layer := _find(expert, name)) is not None
        ]
        return [
            Reader(
                module=layer, weight="weight", bias="bias", storage=storage_of(layer),
                is_gate=name == record.gate, takes_bias=isinstance(layer, nn.Linear),
            )
            for name, layer in layers
        ] or None  # fmt: skip
    storage: Storage = "in_out" if record.is_transposed else "out_in"
    return [
        Reader(
            module=module, weight=name, bias=f"{name}_bias", storage=storage,
            is_gate=name == record.gate,
        )
        for name in names
    ]  # fmt: skip


def _find(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _refuse_shared(found: list[ReadNorm], ground: Ground) -> list[ReadNorm]:
    """Refuse projections that read several norms: they could hold the weights of only one."""
    owners: dict[tuple[nn.Module, str], str] = {}

    def check(one: ReadNorm) -> ReadNorm:
        for reader in one.readers:
            first = owners.setdefault((reader.module, reader.weight), one.name)
            if first != one.name:
                where = ground.paths.get(reader.module, "a projection")
                return replace(one, obstacle=f"{where} reads {one.name} as well as {first}")
        return one

    return [check(one) for one in found]
