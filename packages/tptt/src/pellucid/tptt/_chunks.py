"""Sequences cut into chunks of one size, and the triangle that is solved in each."""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError


def get_valid_chunk_size(total_l: int, chunk_size: int) -> int:
    """Return the largest divisor of a length that is at most `chunk_size`; 1 for no length.

    `LinearAttentionOp` needs no divisor: it pads the last chunk.
    """
    return next((size for size in range(min(chunk_size, total_l), 0, -1) if total_l % size == 0), 1)


def chunk_sequence(
    x: Float[Tensor, "batch head pos d_head"], num_chunks: int, chunk_size: int
) -> Float[Tensor, "batch head chunk chunk_pos d_head"]:
    """Cut a sequence into chunks.

    Raises:
        ArgumentError: (a ValueError) If the chunks do not make up the sequence.
    """
    if num_chunks * chunk_size != x.shape[2]:
        raise ArgumentError(
            f"{num_chunks} chunks of {chunk_size} are not the {x.shape[2]} positions there are. "
            "Pad the sequence, or use get_valid_chunk_size."
        )
    return x.unflatten(2, (num_chunks, chunk_size))


def fast_invert_matrix(
    tri_tensor: Float[Tensor, "*shape row column"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape row column"]:
    """Return the inverse of I - L, for L strictly lower triangular.

    Args:
        tri_tensor: L, square; what stands on or above its diagonal is not read.
        dtype: What to compute in; the result has the dtype of L.
    """
    lower = -tri_tensor.to(dtype)
    eye = torch.eye(lower.shape[-1], dtype=dtype, device=lower.device).expand_as(lower)
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
    return inverse.to(tri_tensor.dtype)
