"""What every part of a model has: what it takes, what it gives, and a norm's inner values."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from pellucid.bridge._heads import read_width
from pellucid.bridge._record import Block
from pellucid.bridge._table import HookSpec
from pellucid.bridge._taps import NormPart, Passing, Tap

STREAM = "batch pos d_model"


@dataclass(frozen=True, kw_only=True)
class BlockView:
    """One block, its record, and where they stand.

    Attributes:
        block: The block.
        record: What it is.
        name: Such as "blocks.0".
        layer: Its place in its stack.
        config: The model's configuration.
    """

    block: nn.Module
    record: Block
    name: str
    layer: int
    config: Any

    @property
    def is_parallel(self) -> bool:
        """Whether attention and MLP read the same stream."""
        declared = self.record.is_parallel
        return (
            bool(getattr(self.config, declared, False)) if isinstance(declared, str) else declared
        )

    @property
    def factor(self) -> float | None:
        """What both results are multiplied by, if by anything."""
        declared = self.record.multiplier
        return float(getattr(self.config, declared)) if isinstance(declared, str) else declared

    def find(self, path: str | None, within: nn.Module | None = None) -> Any:
        """Return the module at a path, within a part unless the path begins with a dot.

        Of several paths with bars between them, the first that leads somewhere.
        """
        if path is None:
            return None
        if "|" in path:
            found = (self.find(choice, within) for choice in path.split("|"))
            return next((module for module in found if module is not None), None)
        if path.startswith("."):
            within, path = None, path[1:]
        root = self.block if within is None else within
        if not path:
            return root
        try:
            return operator.attrgetter(path)(root)
        except AttributeError:
            return None

    def spec(
        self,
        name: str,
        shape: str,
        meaning: str,
        tap: Tap,
        *,
        aliases: tuple[str, ...] = (),
        gate: str | None = None,
    ) -> HookSpec:
        """Return one activation of the block."""
        return HookSpec(
            name=f"{self.name}.{name}",
            shape=shape,
            meaning=meaning,
            tap=tap,
            aliases=tuple(f"{self.name}.{alias}" for alias in aliases),
            layer=self.layer,
            gate=gate,
        )

    def leaf(self, name: str, module: nn.Module | None) -> Iterator[HookSpec]:
        """Yield what a part takes and gives; nothing if the block has no such part."""
        if module is not None:
            full = f"{self.name}.{name}"
            yield from describe_leaf(full, module, f"what {name} gives", self.layer)

    def norm(self, name: str, path: str | None) -> Iterator[HookSpec]:
        """Yield the activations of a norm."""
        layer = self.find(path)
        if layer is None or isinstance(layer, nn.Identity):
            return
        full = f"{self.name}.{name}"
        taken, given = describe_leaf(full, layer, "the norm's result", self.layer)
        yield taken
        yield from describe_norm(full, layer, read_width(self.config), self.layer)
        result = {"ln1_post": "hook_attn_out", "ln2_post": "hook_mlp_out"}.get(name)
        if result is None or self.record.is_post_norm or self.factor is not None:
            yield given
            return
        what = "attention" if name == "ln1_post" else "the MLP"
        yield self.spec(
            f"{name}.hook_out", STREAM, f"what {what} adds to the stream",
            Passing(layer, "after"), aliases=(result,),
        )  # fmt: skip


def describe_leaf(
    name: str, module: nn.Module, meaning: str, layer: int | None, aliases: tuple[str, ...] = ()
) -> Iterator[HookSpec]:
    """Yield what a module takes and gives."""
    yield HookSpec(
        name=f"{name}.hook_in",
        shape=STREAM,
        meaning=f"what {name.rpartition('.')[2]} takes",
        tap=Passing(module, "before"),
        layer=layer,
    )
    yield HookSpec(
        name=f"{name}.hook_out",
        shape=STREAM,
        meaning=meaning,
        tap=Passing(module, "after"),
        layer=layer,
        aliases=aliases,
    )


def describe_norm(
    name: str, module: nn.Module, width: int, layer: int | None
) -> Iterator[HookSpec]:
    """Yield what a norm divides by and what that leaves."""
    yield HookSpec(
        name=f"{name}.hook_scale",
        shape="batch pos 1",
        meaning="what the norm divides by",
        tap=NormPart(module, width, is_scale=True),
        layer=layer,
    )
    yield HookSpec(
        name=f"{name}.hook_normalized",
        shape=STREAM,
        meaning="the norm's result before its weight and bias",
        tap=NormPart(module, width, is_scale=False),
        layer=layer,
    )
