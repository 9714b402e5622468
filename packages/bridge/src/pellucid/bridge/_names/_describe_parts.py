"""What every part of a model has: what it takes, what it gives, and a norm's inner values."""

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from pellucid.bridge._architectures._heads import read_width
from pellucid.bridge._architectures._record import Block
from pellucid.bridge._engine._taps import NormPart, Passing, RowsOf, Tap
from pellucid.bridge._names._table import HookSpec
from pellucid.bridge._names._views import View, Whole
from pellucid.bridge._weights._projections import width_in, width_out

STREAM = "batch pos d_model"
_WHOLE = Whole()


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    @property
    def width(self) -> int:
        """How wide the residual stream is."""
        return read_width(self.config)

    @property
    def has_rows(self) -> bool:
        """Whether the MLP and its norm take the positions of all samples in one row."""
        return self.record.mlp is not None and self.record.mlp.is_flat

    def rows(self, tap: Tap) -> Tap:
        """Return a tap on what may hold the positions of all samples in one row, by sample."""
        return RowsOf(tap, self.block)

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

    def leaf(
        self, name: str, module: nn.Module | None, *, view: View = _WHOLE, has_rows: bool = False
    ) -> Iterator[HookSpec]:
        """Yield what a part takes and gives; nothing if the block has no such part.

        Args:
            name: Of the part, within the block.
            module: The part.
            view: How what it takes and gives is seen.
            has_rows: Whether it may take the positions of all samples in one row.
        """
        if module is None:
            return
        meaning = f"what {name} gives"
        for spec in describe_leaf(
            f"{self.name}.{name}", module, meaning, self.layer, width=self.width, view=view
        ):
            yield dataclasses.replace(spec, tap=self.rows(spec.tap)) if has_rows else spec

    def norm(self, name: str, path: str | None) -> Iterator[HookSpec]:
        """Yield the activations of a norm."""
        layer = self.find(path)
        if layer is None or isinstance(layer, nn.Identity):
            return
        for spec in self._describe_norm(name, layer):
            is_flat = name == "ln2" and self.has_rows
            yield dataclasses.replace(spec, tap=self.rows(spec.tap)) if is_flat else spec

    def _describe_norm(self, name: str, layer: nn.Module) -> Iterator[HookSpec]:
        full = f"{self.name}.{name}"
        taken, given = describe_leaf(full, layer, "the norm's result", self.layer, width=self.width)
        yield taken
        yield from describe_norm(full, layer, self.width, self.layer)
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
    name: str,
    module: nn.Module,
    meaning: str,
    layer: int | None,
    aliases: tuple[str, ...] = (),
    *,
    width: int,
    view: View = _WHOLE,
) -> Iterator[HookSpec]:
    """Yield what a module takes and gives.

    Args:
        name: Of the module.
        module: The module.
        meaning: What it gives.
        layer: The number of its block.
        aliases: Of what it gives.
        width: Of the residual stream.
        view: How what it takes and gives is seen.
    """
    taken, given = _find_widths(module)
    yield HookSpec(
        name=f"{name}.hook_in",
        shape=f"batch pos {_name_axis(taken, width)}",
        meaning=f"what {name.rpartition('.')[2]} takes",
        tap=Passing(module, "before", view),
        layer=layer,
    )
    yield HookSpec(
        name=f"{name}.hook_out",
        shape=f"batch pos {_name_axis(given, width)}",
        meaning=meaning,
        tap=Passing(module, "after", view),
        layer=layer,
        aliases=aliases,
    )


def name_input(module: nn.Module, width: int) -> str:
    """Return the axes of what a projection takes.

    Args:
        module: The projection.
        width: Of the residual stream.
    """
    return f"batch pos {_name_axis(width_in(module), width)}"


def _find_widths(module: nn.Module) -> tuple[int | None, int | None]:
    """Return how wide what a module takes and gives is; None where it does not say."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Embedding):
        return None, module.embedding_dim
    if isinstance(weight, Tensor) and weight.ndim == 1:
        return len(weight), len(weight)
    return width_in(module), width_out(module)


def _name_axis(size: int | None, width: int) -> str:
    if size is None or size == width:
        return "d_model"
    return "1" if size == 1 else "feature"


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
