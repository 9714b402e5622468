"""The quantities of a state space that its projections make side by side."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from pellucid.bridge._describe_parts import BlockView
from pellucid.bridge._table import HookSpec
from pellucid.bridge._taps import Passing
from pellucid.bridge._views import Span
from pellucid.bridge._weights import width_out

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


def describe_state_space(view: BlockView, name: str, mixer: nn.Module) -> Iterator[HookSpec]:
    """Yield the slices of a state space's projections; nothing if it is something else.

    Args:
        view: The block.
        name: Under which the mixer's hook points stand.
        mixer: The mixer.
    """
    for projection, slices in _LAYOUTS:
        module = getattr(mixer, projection, None)
        sizes = [_read_size(mixer, attribute) for _, attribute in slices]
        if module is None or None in sizes or width_out(module) != sum(s or 0 for s in sizes):
            continue
        start = 0
        for (part, _), size in zip(slices, sizes, strict=True):
            stop = start + (size or 0)
            yield view.spec(
                f"{name}.hook_{part}", "batch pos feature", _MEANINGS[part],
                Passing(module, "after", Span(start, stop)),
            )  # fmt: skip
            start = stop


def _read_size(mixer: Any, attribute: str) -> int | None:
    size = getattr(mixer, attribute, None)
    return size if isinstance(size, int) else None
