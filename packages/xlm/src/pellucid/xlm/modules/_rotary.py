"""Positions as rotations of queries and keys."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from pellucid.core import ArgumentError

Rotation = tuple[
    Float[Tensor, "#batch 1 pos half_rotary"],
    Float[Tensor, "#batch 1 pos half_rotary"],
]
"""Cosines and sines of the angles of every position."""


class RotaryEmbedding(nn.Module):
    """Rotate the first channels of a head by angles that grow with the position.

    What two rotated vectors have in common depends on the distance between them alone (Su et al.
    2021, arXiv:2104.09864). Channel `i` is paired with channel `i + d_rotary / 2`.

    Attributes:
        d_rotary: How many channels of a head are rotated; the others stay as they are.
        max_length: Positions run from 0 to `max_length - 1`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, d_rotary: int, *, max_length: int, base: float = 10_000.0) -> None:
        super().__init__()
        if d_rotary < 2 or d_rotary % 2:
            message = f"d_rotary is {d_rotary!r}; channels turn in pairs, so give an even number"
            raise ArgumentError(message)
        self.d_rotary, self.max_length = d_rotary, max_length
        frequencies = base ** -(torch.arange(0, d_rotary, 2) / d_rotary)
        angles = torch.arange(max_length)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions: Integer[Tensor, "batch pos"] | None, n_pos: int) -> Rotation:
        """Look the angles up, once for all layers.

        Args:
            positions: Where each token stands; 0, 1, 2, ... if None.
            n_pos: How many tokens there are.

        Raises:
            ArgumentError: There are more tokens than positions.
        """
        if positions is not None:
            return self.cos[positions][:, None], self.sin[positions][:, None]
        if n_pos > self.max_length:
            message = (
                f"{n_pos} tokens do not fit into max_length={self.max_length}; "
                "shorten them, or build the model with a larger max_length"
            )
            raise ArgumentError(message)
        return self.cos[None, None, :n_pos], self.sin[None, None, :n_pos]


def rotate(
    x: Float[Tensor, "batch head pos d_head"], rotation: Rotation
) -> Float[Tensor, "batch head pos d_head"]:
    """Turn queries or keys by the angles of their positions."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((*turned, rest) if rest.shape[-1] else turned, dim=-1)
