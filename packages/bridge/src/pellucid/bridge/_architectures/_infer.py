"""An architecture's record, found by watching how a model's modules hand tensors to each other.

Names are asked where they say more than the flow of tensors does (which of two projections is the
gate); everything else follows from who takes what whom has given. What a record would then claim
is tried out on the model, and what does not hold is left out.
"""

import collections
from types import MappingProxyType
from typing import Any

from torch import nn

from pellucid.bridge._architectures._claims import settle_claims
from pellucid.bridge._architectures._described import read_config
from pellucid.bridge._architectures._infer_block import read_block
from pellucid.bridge._architectures._infer_parts import is_norm
from pellucid.bridge._architectures._probe import Call, Trace, is_same, trace_forward
from pellucid.bridge._architectures._record import Architecture, Stack
from pellucid.bridge._errors import ArchitectureError


def infer_architecture(model: nn.Module, config: Any = None) -> Architecture:
    """Return a record of a model that nobody has described.

    The model runs a few times on three tokens.

    Args:
        model: A model of transformers, or a module that takes token ids as `input_ids`.
        config: Its configuration, for a module that holds none.

    Raises:
        ArgumentError: (a ValueError) If there is no configuration.
        ArchitectureError: (a ValueError) If it does not run on token ids alone, or has no list of
            blocks that a forward pass goes through.
    """
    config = read_config(model) if config is None else config
    trace = _trace(model)
    found = _find_stacks(model, trace)
    if not found:
        raise ArchitectureError(
            f"{type(model).__name__} has no list of blocks that a forward pass goes through. "
            "Describe it: register_architecture(Architecture(...))."
        )
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = _name_stacks(found)
    record = Architecture(
        classes=(type(model).__name__,),
        parts=MappingProxyType(_find_parts(model, trace, dict(zip(names, found, strict=True)))),
        stacks=tuple(
            _read_stack(name, path, model, trace, text_config)
            for name, path in zip(names, found, strict=True)
        ),
        writes_in_place=trace.writes_in_place,
        is_inferred=True,
    )
    return settle_claims(model, record, text_config)


def _trace(model: nn.Module) -> Trace:
    try:
        return trace_forward(model)
    except (NotImplementedError, StopIteration, TypeError, ValueError) as error:
        raise ArchitectureError(
            f"{type(model).__name__} does not run on token ids alone, as forward(input_ids=...), "
            f"so that its structure cannot be seen ({error!r}). Describe it: pass an "
            "Architecture(...) that says where its parts are."
        ) from error


def _read_stack(name: str, path: str, model: nn.Module, trace: Trace, config: Any) -> Stack:
    blocks: Any = model.get_submodule(path)
    described = [read_block(block, trace, config) for block in blocks]
    # Blocks mostly are of few kinds; the commonest is the stack's, the first of equals.
    keys = [repr(block) for block in described]
    common = collections.Counter(keys).most_common(1)[0][0]
    others = {i: block for i, block in enumerate(described) if keys[i] != common}
    return Stack(
        name=name,
        path=path,
        block=described[keys.index(common)],
        others=MappingProxyType(others),
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


def _keeps_shape(call: Call | None) -> bool:
    if call is None or call.taken is None or call.given is None:
        return False
    taken, given = call.taken, call.given
    return taken.is_floating_point() and taken.ndim >= 3 and taken.shape == given.shape


def _weight(blocks: nn.Module) -> int:
    return sum(weight.numel() for weight in blocks.parameters())


def _name_stacks(stacks: dict[str, nn.ModuleList]) -> list[str]:
    if len(stacks) == 1:
        return ["blocks"]
    names: list[str] = []
    for path in stacks:
        kind = next((k for k in ("decoder", "encoder", "vision", "audio") if k in path), None)
        name = f"{kind}_blocks" if kind else "blocks"
        names.append(name if name not in names else f"{path.replace('.', '_')}_blocks")
    return names


def _find_parts(model: Any, trace: Trace, stacks: dict[str, str]) -> dict[str, str]:
    paths = {module: path for path, module in model.named_modules()}
    inside = {module for path in stacks.values() for module in model.get_submodule(path).modules()}
    embed, unembed = _find_tables(model, trace)
    parts: dict[str, str] = {}
    if embed is not None and trace.has(embed):
        parts["embed"] = paths[embed]
    for module in sorted(set(paths) - inside - {embed, unembed, model}, key=trace.place):
        call, path = trace.first(module), paths[module]
        if call is not None:
            role = _role_of(module, path.rpartition(".")[2], call, _ends(model, trace, stacks))
            if role is not None:
                is_second = len(stacks) > 1 and "decoder" in path and "decoder" not in role
                parts.setdefault(f"decoder_{role}" if is_second else role, path)
    if unembed is not None and trace.has(unembed):
        parts["unembed"] = paths[unembed]
    return parts


def _find_tables(model: Any, trace: Trace) -> tuple[nn.Module | None, nn.Module | None]:
    """Return what makes vectors of tokens, and logits of vectors."""
    if hasattr(model, "get_input_embeddings"):
        return model.get_input_embeddings(), model.get_output_embeddings()
    calls = [call for call in trace.calls if call.module is not model]
    whole = trace.first(model)
    embed = (call.module for call in calls if isinstance(call.module, nn.Embedding))
    unembed = (
        call.module
        for call in calls
        if whole and isinstance(call.module, nn.Linear) and is_same(call.given, whole.given)
    )
    return next(embed, None), next(unembed, None)


def _ends(model: nn.Module, trace: Trace, stacks: dict[str, str]) -> list[tuple[str, Call, Call]]:
    """Return each stack's prefix, what it took first and what it gave last."""
    ends: list[tuple[str, Call, Call]] = []
    for name, path in stacks.items():
        blocks: Any = model.get_submodule(path)
        first, last = trace.first(blocks[0]), trace.first(blocks[-1])
        if first is not None and last is not None:
            ends.append((name.removesuffix("blocks"), first, last))
    return ends


def _role_of(
    module: nn.Module, name: str, call: Call, ends: list[tuple[str, Call, Call]]
) -> str | None:
    kind = type(module).__name__.lower()
    if isinstance(module, nn.Embedding) and ("embed_tokens" in name or name == "shared"):
        return "embed"
    if isinstance(module, nn.Embedding) and "type" in name:
        return "token_type_embed"
    if isinstance(module, nn.Embedding) and ("pos" in name or name == "wpe"):
        return "pos_embed"
    if "rotary" in kind:
        return "rotary_emb" if len(call.items) == 2 else None
    if not is_norm(module, name):
        return None
    for prefix, first, last in ends:
        if is_same(call.given, first.taken):
            return "embed_ln"
        if is_same(call.taken, last.given):
            return f"{prefix}ln_final"
    return None
