"""From a record and a model to the table of its activations."""

import fnmatch
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from pellucid.bridge._architectures._heads import read_width
from pellucid.bridge._architectures._record import Architecture, Stack
from pellucid.bridge._engine._taps import Passing
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._describe_block import describe_block
from pellucid.bridge._names._describe_parts import describe_leaf, describe_norm
from pellucid.bridge._names._table import HookSpec
from pellucid.bridge._names._views import Positions, Whole

_BEFORE_BLOCKS = ("embed", "token_type_embed", "pos_embed", "embed_ln", "rotary_emb")
# Named for what reads streams with it; it may take more than one tensor.
_NO_POINT = "readout"
_MEANINGS = {
    "embed": "token embeddings",
    "pos_embed": "position embeddings",
    "unembed": "next-token logits, before any cap or scale",
}
_ALIASES = {
    "embed": ("hook_embed",),
    "pos_embed": ("hook_pos_embed",),
    "unembed": ("hook_unembed",),
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
    return _without(_describe_all(model, record, config), record.omits)


def _describe_all(model: nn.Module, record: Architecture, config: Any) -> Iterator[HookSpec]:
    before = {
        name: path
        for name, path in record.parts.items()
        if name.removeprefix("decoder_") in _BEFORE_BLOCKS
    }
    after = {name: path for name, path in record.parts.items() if name not in before}
    width = read_width(config)
    yield from _describe_parts(model, before, width)
    for stack in record.stacks:
        for number, block in enumerate(list_blocks(model, stack)):
            yield from describe_block(block, stack, number, config)
    yield from _describe_parts(model, after, width)


def _without(specs: Iterable[HookSpec], omits: tuple[str, ...]) -> Iterator[HookSpec]:
    """Leave out what a record omits: activations by name, other names of one by these names."""
    if not omits:
        yield from specs
        return
    for spec in specs:
        if any(fnmatch.fnmatchcase(spec.name, pattern) for pattern in omits):
            continue
        kept = [
            a for a in spec.aliases if not any(fnmatch.fnmatchcase(a, pattern) for pattern in omits)
        ]
        yield spec if len(kept) == len(spec.aliases) else replace(spec, aliases=tuple(kept))


def _describe_parts(model: nn.Module, parts: Mapping[str, str], width: int) -> Iterator[HookSpec]:
    for name, path in parts.items():
        module = find_part(model, path)
        if module is None or name == _NO_POINT:
            continue
        if name.endswith("rotary_emb"):
            yield _describe_rotary(name, module, "hook_cos", 0)
            yield _describe_rotary(name, module, "hook_sin", 1)
            continue
        meaning = _MEANINGS.get(name, f"what {name} gives")
        is_position = name.endswith("pos_embed")
        taken, given = describe_leaf(
            name, module, meaning, None, _ALIASES.get(name, ()),
            width=width, view=Positions() if is_position else Whole(),
        )  # fmt: skip
        if is_position:
            # Samples of one length share their positions.
            yield replace(taken, shape="batch_or_one pos", tap=Passing(module, "before"))
            yield replace(given, shape=given.shape.replace("batch", "batch_or_one"))
            continue
        is_embedding = name.endswith("embed") and name != "unembed"
        yield replace(taken, shape="batch pos") if is_embedding else taken
        if name.endswith("ln_final") or name.endswith("embed_ln"):
            yield from describe_norm(name, module, width, None)
        yield replace(given, shape="batch pos d_vocab") if name == "unembed" else given


def _describe_rotary(owner: str, module: nn.Module, name: str, item: int) -> HookSpec:
    return HookSpec(
        name=f"{owner}.{name}",
        shape="batch_or_one pos rotary",
        meaning=f"{name.removeprefix('hook_')}ines of the rotary positions",
        tap=Passing(module, "after", item=item),
    )
