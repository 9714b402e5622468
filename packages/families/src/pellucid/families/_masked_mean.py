"""Averages over the positions that count."""

from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import ArgumentError


def masked_mean(
    values: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Average each row over the positions where its mask is set.

    What stands at the other positions is never read, be it infinite or not a number.

    Args:
        values: Any floating dtype, which is also that of the result.
        mask: Where to look; at least one position per row.

    Returns:
        The mean of each row, in the unit of `values`.

    Raises:
        ArgumentError: A row has no position to average over.
    """
    counts = mask.sum(dim=1)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        message = f"rows {empty!r} of the mask are empty; set at least one position in each"
        raise ArgumentError(message)
    return values.where(mask, 0).sum(dim=1) / counts
