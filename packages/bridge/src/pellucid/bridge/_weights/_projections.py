"""Weights of projections in one orientation, whichever class of layer holds them."""

from typing import Any

from torch import Tensor, nn

from pellucid.bridge._errors import ArchitectureError


def weight_in_out(projection: nn.Module) -> Tensor:
    """Return a projection's weight as a view of shape (d_in, d_out).

    Raises:
        ArchitectureError: If the weight is not a matrix of floats: it may be quantised.
    """
    layer: Any = projection
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        raise ArchitectureError(
            f"{type(layer).__name__} holds no plain weight matrix. What is derived from weights "
            "cannot be had from quantised layers; load the model without quantisation."
        )
    # transformers' Conv1D, which GPT-2 uses, keeps its weight as (d_in, d_out).
    return weight if type(layer).__name__ == "Conv1D" else weight.T


def bias_of(projection: nn.Module) -> Tensor | None:
    """Return a projection's bias, if it has one."""
    return getattr(projection, "bias", None)


def width_out(projection: nn.Module) -> int | None:
    """Return how wide a projection's output is, if it says."""
    layer: Any = projection
    found = getattr(layer, "out_features", getattr(layer, "nf", None))
    return found if isinstance(found, int) else None


def width_in(projection: nn.Module) -> int | None:
    """Return how wide a projection's input is, if it says."""
    layer: Any = projection
    found = getattr(layer, "in_features", getattr(layer, "nx", None))
    return found if isinstance(found, int) else None
