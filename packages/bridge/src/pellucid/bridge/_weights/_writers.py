"""The parts of blocks that add to the residual stream, and how each does it."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._norms import NormFormula, find_formula
from pellucid.bridge._engine._taps import HeadResult, NormPart, Passing, RowsOf, Scaled
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._table import HookTable
from pellucid.bridge._weights._projections import bias_of, weight_in_out


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Writer:
    """A part of a block that adds to the stream.

    What it adds is linear in what its last projection takes, up to one divisor for each position
    where a norm stands after it: Gemma 2.

    Attributes:
        layer: The block.
        kind: "attn", "cross_attn", "mlp", or the name of a mixer.
        name: The activation that it adds.
        inner: What its last projection takes, None where there is no one projection.
        projection: That projection.
        n_heads: How many heads it takes, for attention.
        norm: The norm after it, if there is one.
        formula: What that norm computes.
        norm_in: The activation that the norm takes.
        factor: What all is multiplied by.
    """

    layer: int
    kind: str
    name: str
    inner: str | None = None
    projection: nn.Module | None = None
    n_heads: int | None = None
    norm: nn.Module | None = None
    formula: NormFormula | None = None
    norm_in: str | None = None
    factor: float = 1.0

    @property
    def label(self) -> str:
        """What it is called in a decomposition, such as "0_attn_out"."""
        return f"{self.layer}_{self.kind}_out"

    def weight(self) -> Tensor:
        """Return the weight from what the projection takes to the stream, (d_in, d_model)."""
        if self.projection is None:
            raise ArchitectureError(
                f"what {self.name!r} is made of is not one projection, so it cannot be taken apart."
            )
        return self.carry(weight_in_out(self.projection).detach())

    def constant(self, divisor: Tensor | None) -> Tensor | None:
        """Return what it adds whatever it takes: biases, as the norm hands them on.

        Args:
            divisor: Of the norm, of shape (..., 1).
        """
        bias = None if self.projection is None else bias_of(self.projection)
        made = None if bias is None else self.carry(bias.detach())
        if made is not None and divisor is not None:
            made = made / divisor
        after = None if self.norm is None else getattr(self.norm, "bias", None)
        if after is None:
            return made
        return after.detach() if made is None else made + after.detach()

    def carry(self, part: Tensor) -> Tensor:
        """Return what becomes of a part of its output on the way to the stream, undivided."""
        if self.norm is None or self.formula is None:
            return part if self.factor == 1.0 else part * self.factor
        centred = self.formula.centre(part)
        weight = getattr(self.norm, "weight", None)
        return centred if weight is None else centred * (weight.detach() + self.formula.offset)


def list_writers(bridge: Any) -> list[list[Writer]]:
    """Return for each block what adds to the stream, in the order of a forward pass.

    Raises:
        ArchitectureError: (a ValueError) If the model has several stacks, if norms stand on the
            stream itself, or if the record does not say what a part adds.
    """
    if len(bridge.adapter.stacks) != 1:
        names = ", ".join(stack.name for stack in bridge.adapter.stacks)
        raise ArchitectureError(f"a stream is taken apart for one stack of blocks, not {names}.")
    stack = bridge.adapter.stacks[0]
    if stack.block.is_post_norm:
        raise ArchitectureError(
            "norms stand on the residual stream of this model, so that it is no sum of what its "
            "blocks add. Take apart what enters a norm: cache['blocks.0.ln1_post.hook_in']."
        )
    table: HookTable = bridge.hook_table()
    return [
        _list_writers(table, f"{stack.name}.{layer}", layer, stack.others.get(layer, stack.block))
        for layer in range(len(bridge._stacks[stack.name]))
    ]


def _list_writers(table: HookTable, prefix: str, layer: int, record: Any) -> list[Writer]:
    made: list[Writer] = []
    if f"{prefix}.attn.hook_out" in table or f"{prefix}.attn.o.hook_out" in table:
        made.append(_read_writer(table, prefix, layer, "attn"))
    for mixer in record.mixers:
        name = f"{prefix}.{mixer.name}.hook_out"
        if name in table:
            made.append(_read_mixer(table, name, layer, mixer.name, record))
    if f"{prefix}.cross_attn.hook_out" in table:
        made.append(_read_writer(table, prefix, layer, "cross_attn"))
    if f"{prefix}.mlp.hook_out" in table or f"{prefix}.mlp.out.hook_out" in table:
        made.append(_read_writer(table, prefix, layer, "mlp"))
    return made


def _read_writer(table: HookTable, prefix: str, layer: int, kind: str) -> Writer:
    name = table.find(f"{prefix}.hook_{kind}_out")
    if name is None:
        raise ArchitectureError(
            f"what {prefix}.{kind} adds to the stream is not known: it may be multiplied by what "
            f"the record does not say. Its own output is {prefix}.{kind}.hook_out."
        )
    projection, inner, n_heads = _find_projection(table, f"{prefix}.{kind}")
    tap = bare_tap(table, name)
    factor = tap.factor if isinstance(tap, Scaled) else 1.0
    norm = formula = norm_in = None
    if name.rpartition(".")[0].endswith(("ln1_post", "ln2_post")):
        owner = name.removesuffix(".hook_out")
        norm, formula = find_norm(table, owner)
        norm_in = f"{owner}.hook_in"
    return Writer(
        layer=layer, kind=kind, name=name, inner=inner, projection=projection, n_heads=n_heads,
        norm=norm, formula=formula, norm_in=norm_in, factor=factor,
    )  # fmt: skip


def _find_projection(table: HookTable, prefix: str) -> tuple[nn.Module | None, str | None, Any]:
    place = "out" if prefix.endswith("mlp") else "o"
    inner = f"{prefix}.{place}.hook_in"
    if inner not in table:
        return None, None, None
    tap = bare_tap(table, inner)
    n_heads = None
    if f"{prefix}.hook_result" in table:
        result = bare_tap(table, f"{prefix}.hook_result")
        n_heads = result.n_heads if isinstance(result, HeadResult) else None
    return tap.module, inner, n_heads


def _read_mixer(table: HookTable, name: str, layer: int, kind: str, record: Any) -> Writer:
    if record.multiplier is not None or record.ln1_post is not None:
        raise ArchitectureError(
            f"what {name!r} adds to the stream is not known: its block multiplies or normalises it."
        )
    inner = f"{name.removesuffix('.hook_out')}.out_proj.hook_in"
    tap = bare_tap(table, inner) if inner in table else None
    projection = tap.module if isinstance(tap, Passing) else None
    return Writer(layer=layer, kind=kind, name=name, inner=inner, projection=projection)


def bare_tap(table: HookTable, name: str) -> Any:
    """Return how an activation is got at, whether or not samples are taken apart for it."""
    tap: Any = table[name].tap
    return tap.tap if isinstance(tap, RowsOf) else tap


def find_norm(table: HookTable, owner: str) -> tuple[nn.Module, NormFormula]:
    """Return the layer of a norm, such as "ln_final", and what it computes.

    Raises:
        ArchitectureError: (a ValueError) If it is neither a LayerNorm nor an RMSNorm.
    """
    tap = bare_tap(table, f"{owner}.hook_scale")
    formula = find_formula(tap.layer, tap.width) if isinstance(tap, NormPart) else None
    if formula is None:
        raise ArchitectureError(
            f"{owner!r} is neither a LayerNorm nor an RMSNorm as far as trying it shows, so that "
            "what passes it cannot be taken apart."
        )
    return tap.layer, formula


def find_unembedding(bridge: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weight of the unembedding, (d_model, d_vocab), and its bias.

    Raises:
        ArchitectureError: (a ValueError) If logits are not made of the last stream by a norm and
            one projection.
    """
    table: HookTable = bridge.hook_table()
    tap = bare_tap(table, "unembed.hook_in") if "unembed.hook_in" in table else None
    is_direct = len(bridge.adapter.stacks) == 1 and not bridge.adapter.stacks[0].block.is_post_norm
    if not isinstance(tap, Passing) or not is_direct:
        raise ArchitectureError(
            f"{type(bridge.original_model).__name__} does not make its logits of the residual "
            "stream by one norm and one projection, so that logits cannot be attributed to it."
        )
    weight = weight_in_out(tap.module)
    if len(weight) != bridge.cfg.d_model:
        raise ArchitectureError(
            f"the unembedding takes {len(weight)} entries and the stream has "
            f"{bridge.cfg.d_model}: something stands between them."
        )
    bias = bias_of(tap.module)
    return weight.detach(), None if bias is None else bias.detach()


def sum_biases(writers: list[Writer], width: int, like: Tensor) -> Tensor:
    """Return what writers add whatever they take, of shape (d_model).

    Raises:
        ArchitectureError: (a ValueError) If a norm after one makes that depend on the position.
    """
    total = torch.zeros(width, dtype=like.dtype, device=like.device)
    for writer in writers:
        if writer.norm is not None:
            raise ArchitectureError(
                f"a norm stands between {writer.name!r} and the stream, so that what a bias adds "
                "depends on the position. cache.get_full_resid_decomposition() has it."
            )
        constant = writer.constant(None)
        total = total if constant is None else total + constant.to(total.device)
    return total
