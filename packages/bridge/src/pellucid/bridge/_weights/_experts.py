"""Where experts keep their weights, as a record says or as they say themselves."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from pellucid.bridge._architectures._record import ExpertWeights
from pellucid.bridge._names._describe import find_part
from pellucid.bridge._names._views import Alternating, Span, View, Whole
from pellucid.bridge._weights._projections import width_out
from pellucid.bridge._weights._views import (
    StackedViews,
    WeightSource,
    WeightView,
    has_parameter,
    storage_of,
)

_INTO = ("expert d_model d_mlp", "expert d_mlp")
_BACK = ("expert d_mlp d_model", "expert d_model")


def describe_experts(
    experts: nn.Module, record: ExpertWeights | None
) -> dict[str, tuple[str, WeightSource]]:
    """Return each weight's shape and source by its name within the MLP; none if nothing says.

    Args:
        experts: What holds them.
        record: How it keeps their weights; None if that is for it to say.
    """
    record = record or read_declaration(experts)
    if record is None:
        return {}
    if record.is_list:
        return dict(_describe_list(experts, record))
    return dict(_describe_stacked(experts, record))


def read_declaration(experts: Any) -> ExpertWeights | None:
    """Return how a module declares to transformers' expert kernels that it keeps its weights."""
    declared = [getattr(experts, n, None) for n in ("is_transposed", "is_concatenated", "has_gate")]
    if None in declared or not has_parameter(experts, "down_proj"):
        return None
    is_transposed, is_concatenated, has_gate = map(bool, declared)
    return ExpertWeights(
        gate_in="gate_up_proj" if has_gate else None,
        in_=None if has_gate else "up_proj",
        is_transposed=is_transposed,
        is_interleaved=has_gate and not is_concatenated,
    )


def _describe_stacked(
    experts: nn.Module, record: ExpertWeights
) -> Iterator[tuple[str, tuple[str, WeightSource]]]:
    def describe(
        letter: str, parameter: str | None, shapes: tuple[str, str], view: View
    ) -> Iterator[tuple[str, tuple[str, WeightSource]]]:
        if parameter is None or not has_parameter(experts, parameter):
            return
        storage = "in_out" if record.is_transposed else "out_in"
        weight = WeightView(module=experts, parameter=parameter, storage=storage, view=view)
        yield f"W_{letter}", (shapes[0], weight)
        if has_parameter(experts, f"{parameter}_bias"):
            bias = WeightView(
                module=experts, parameter=f"{parameter}_bias", storage="vector", view=view
            )
            yield f"b_{letter}", (shapes[1], bias)

    if record.gate_in is not None:
        axis = -1 if record.is_transposed else -2
        width = getattr(experts, record.gate_in).shape[axis]
        for letter, view in zip(("gate", "in"), _halves(width, record), strict=True):
            yield from describe(letter, record.gate_in, _INTO, view)
    yield from describe("gate", record.gate, _INTO, Whole())
    yield from describe("in", record.in_, _INTO, Whole())
    yield from describe("out", record.out, _BACK, Whole())


def _describe_list(
    experts: nn.Module, record: ExpertWeights
) -> Iterator[tuple[str, tuple[str, WeightSource]]]:
    def describe(
        letter: str, path: str | None, shapes: tuple[str, str], views: Sequence[View] | None = None
    ) -> Iterator[tuple[str, tuple[str, WeightSource]]]:
        layers = [find_part(expert, path) for expert in experts.children()]
        if path is None or any(layer is None for layer in layers):
            return
        chosen = views or [Whole()] * len(layers)
        pairs = list(zip(layers, chosen, strict=True))
        yield f"W_{letter}", (shapes[0], StackedViews(tuple(
            WeightView(module=layer, parameter="weight", storage=storage_of(layer), view=view)
            for layer, view in pairs
        )))  # fmt: skip
        if all(has_parameter(layer, "bias") for layer in layers):
            yield f"b_{letter}", (shapes[1], StackedViews(tuple(
                WeightView(module=layer, parameter="bias", storage="vector", view=view)
                for layer, view in pairs
            )))  # fmt: skip

    if record.gate_in is not None:
        widths = [width_out(find_part(one, record.gate_in)) or 0 for one in experts.children()]
        halves = [_halves(width, record) for width in widths]
        yield from describe("gate", record.gate_in, _INTO, [pair[0] for pair in halves])
        yield from describe("in", record.gate_in, _INTO, [pair[1] for pair in halves])
    yield from describe("gate", record.gate, _INTO)
    yield from describe("in", record.in_, _INTO)
    yield from describe("out", record.out, _BACK)


def _halves(width: int, record: ExpertWeights) -> tuple[View, View]:
    """Return the views of the gate and of what it gates."""
    if record.is_interleaved:
        return Alternating(0), Alternating(1)
    return Span(0, width // 2), Span(width // 2, width)
