"""Picks transformer layers by number, and says which are read."""

from collections.abc import Sequence

from torch import Tensor

from pellucid.core import ArgumentError, HeldStates, StateSelection


def select_layers(
    values: Tensor, layers: Sequence[int] | None, held: HeldStates | None = None
) -> Tensor:
    """Return some layers of a tensor of shape (batch, layer, ...), in the order asked for.

    Args:
        values: Has layers on its second axis.
        layers: Layer numbers from 0, negative ones from the last; all layers when None.
        held: Which layers the tensor holds; all there are when None.

    Raises:
        ArgumentError: (a ValueError) If there is no such layer, or none is asked for.
    """
    if layers is None:
        return values
    n_layers = values.shape[1] if held is None else held.n_layers
    if not layers or not all(-n_layers <= layer < n_layers for layer in layers):
        raise ArgumentError(
            f"targeted_layers must name layers of the {n_layers} there are, got {list(layers)!r}. "
            f"Use numbers from {-n_layers} to {n_layers - 1}, or None for all."
        )
    return values[:, list(layers) if held is None else held.find_layers(layers)]


def select_states(
    layers: Sequence[int] | None, part: str | None, key_part: str | None = None
) -> StateSelection:
    """Return what a loss over some layers and parts of an input reads."""
    return StateSelection(
        layers=None if layers is None else tuple(layers), part=part, key_part=key_part
    )
