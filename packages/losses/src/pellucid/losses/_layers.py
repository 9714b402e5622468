"""Picks transformer layers by number."""

from collections.abc import Sequence

from torch import Tensor

from pellucid.core import ArgumentError


def select_layers(values: Tensor, layers: Sequence[int] | None) -> Tensor:
    """Return some layers of a tensor of shape (batch, layer, ...), in the order asked for.

    Args:
        values: Has layers on its second axis.
        layers: Layer numbers from 0, negative ones from the last; all layers when None.

    Raises:
        ArgumentError: (a ValueError) If there is no such layer, or none is asked for.
    """
    if layers is None:
        return values
    n_layers = values.shape[1]
    if not layers or not all(-n_layers <= layer < n_layers for layer in layers):
        raise ArgumentError(
            f"targeted_layers must name layers of the {n_layers} there are, got {list(layers)!r}. "
            f"Use numbers from {-n_layers} to {n_layers - 1}, or None for all."
        )
    return values[:, list(layers)]
