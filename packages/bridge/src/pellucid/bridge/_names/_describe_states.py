"""The quantities of a state space: what its projections make side by side, what it convolves."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from pellucid.bridge._engine._convolutions import has_convolution
from pellucid.bridge._engine._taps import InsideAttention, Passing
from pellucid.bridge._engine._taps_states import KeptState, keeps_state
from pellucid.bridge._names._describe_parts import BlockView
from pellucid.bridge._names._table import HookSpec
from pellucid.bridge._names._views import Span
from pellucid.bridge._weights._projections import width_out

_MEANINGS = {
    "x": "what is written to the state, before the convolution",
    "x_B_C": "what is written, how it enters the state, how that is read, before the convolution",
    "gate": "what the result is multiplied by, before its activation",
    "dt": "step sizes, before their bias and softplus",
    "dt_latent": "what step sizes are projected from",
    "B": "how what is written enters the state",
    "C": "how the state is read",
}
# Projection, and for each of its slices the attribute of the mixer that says how wide it is.
_LAYOUTS = (
    # Mamba.
    ("in_proj", (("x", "intermediate_size"), ("gate", "intermediate_size"))),
    (
        "x_proj",
        (("dt_latent", "time_step_rank"), ("B", "ssm_state_size"), ("C", "ssm_state_size")),
    ),
    # Mamba 2.
    ("in_proj", (("gate", "intermediate_size"), ("x_B_C", "conv_dim"), ("dt", "num_heads"))),
)
# What users of TransformerLens call what these modules give.
_ALIASES = {
    "hook_out": "hook_ssm_out",
    "in_proj.hook_out": "hook_in_proj",
    "x_proj.hook_out": "hook_x_proj",
    "norm.hook_out": "hook_inner_norm",
}


def name_as_state_space(spec: HookSpec, name: str) -> HookSpec:
    """Return an activation of a state space's module with the other name that it has there.

    Args:
        spec: The activation.
        name: Under which the mixer's hook points stand.
    """
    alias = _ALIASES.get(spec.name.removeprefix(f"{name}."))
    return spec if alias is None else replace(spec, aliases=(*spec.aliases, f"{name}.{alias}"))


def describe_state_space(view: BlockView, name: str, mixer: nn.Module) -> Iterator[HookSpec]:
    """Yield the slices of a state space's projections, its convolution and the state that it keeps.

    Nothing if it is something else.

    Args:
        view: The block.
        name: Under which the mixer's hook points stand.
        mixer: The mixer.
    """
    is_known = False
    for projection, slices in _LAYOUTS:
        module = getattr(mixer, projection, None)
        sizes = [_read_size(mixer, attribute) for _, attribute in slices]
        if module is None or None in sizes or width_out(module) != sum(s or 0 for s in sizes):
            continue
        is_known, start = True, 0
        for (part, _), size in zip(slices, sizes, strict=True):
            stop = start + (size or 0)
            yield view.spec(
                f"{name}.hook_{part}", "batch pos feature", _MEANINGS[part],
                Passing(module, "after", Span(start, stop)),
            )  # fmt: skip
            start = stop
    if is_known:
        yield from _describe_inside(view, name, mixer)


def _describe_inside(view: BlockView, name: str, mixer: nn.Module) -> Iterator[HookSpec]:
    if has_convolution(mixer):
        yield view.spec(
            f"{name}.conv1d.hook_out", "batch pos feature",
            "what the convolution gives, before its activation",
            InsideAttention(mixer, "convolution"), aliases=(f"{name}.hook_conv",),
        )  # fmt: skip
    if keeps_state(mixer):
        channels = "feature" if _read_size(mixer, "num_heads") is None else "head d_head"
        yield view.spec(
            f"{name}.hook_ssm_state", f"batch {channels} d_state",
            "the state after the last position, where a run keeps it for what goes on from there",
            KeptState(mixer),
        )  # fmt: skip


def _read_size(mixer: Any, attribute: str) -> int | None:
    size = getattr(mixer, attribute, None)
    return size if isinstance(size, int) else None
