"""Remembers which triggers were evaluated, as numbers that a checkpoint can hold."""

import hashlib

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def hash_rows(rows: Int64[Tensor, "n_candidates trigger_pos"]) -> Int64[Tensor, " n_candidates"]:
    """Return a number for each row, the same in every process, from 64 bits of a digest."""
    digests = [
        hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows.contiguous().numpy()
    ]
    numbers = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64)


def is_new(
    rows: Int64[Tensor, "n_candidates trigger_pos"], visited: Int64[Tensor, " _"]
) -> Bool[Tensor, " n_candidates"]:
    """Say which rows have no number among those visited."""
    return ~torch.isin(hash_rows(rows), visited)
