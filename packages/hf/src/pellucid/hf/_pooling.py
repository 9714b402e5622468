"""One vector from the hidden states of a text."""

from typing import Literal, TypeAlias, cast, get_args

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pellucid.core import ArgumentError

Pooling: TypeAlias = Literal["mean", "cls", "last"]
"""The mean over all tokens, the first token's state, or the last token's."""


def check_pooling(pooling: str) -> Pooling:
    """Return a kind of pooling, if it is one.

    Raises:
        ArgumentError: (a ValueError) If it is none of "mean", "cls" and "last".
    """
    if pooling not in get_args(Pooling):
        raise ArgumentError(f"pooling must be mean, cls or last, got {pooling!r}.")
    return cast("Pooling", pooling)


def pool(
    states: Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"] | None,
    pooling: Pooling,
    *,
    unit_length: bool,
) -> Float[Tensor, "batch d_model"]:
    """Return one vector for each text.

    Args:
        states: The hidden states.
        mask: 0 where a row is padded, on the right; None if no row is.
        pooling: How to make one of many.
        unit_length: Whether to bring each vector to length 1.
    """
    vectors = _pool(states, mask, pooling)
    return normalize(vectors, dim=-1) if unit_length else vectors


def _pool(states: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    if pooling == "cls":
        return states[:, 0]
    if pooling == "mean":
        if mask is None:
            return states.mean(dim=1)
        counts = mask.to(states.dtype)[..., None]
        return (states * counts).sum(dim=1) / counts.sum(dim=1)
    if mask is None:
        return states[:, -1]
    last = mask.sum(dim=1) - 1
    return states.take_along_dim(last[:, None, None], dim=1)[:, 0]
