"""Small functions on tensors that published code of this kind calls by name."""

import logging

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import interpolate

from pellucid.core import ArgumentError

_LOGGER = logging.getLogger(__name__)


def soft_clamp(
    x: Float[Tensor, "*shape"], min_val: float = 1e-6, max_val: float = 1 - 1e-6
) -> Float[Tensor, "*shape"]:
    """Bring values between two bounds smoothly, by tanh around their middle."""
    middle, half = (max_val + min_val) / 2, (max_val - min_val) / 2
    return middle + half * torch.tanh((x - middle) / half)


def ensure_stability(
    tensor: Float[Tensor, "*shape"], min_val: float = -1e4, max_val: float = 1e4
) -> Float[Tensor, "*shape"]:
    """Clamp to two bounds, in either order; what is not a number becomes their middle."""
    low, high = min(min_val, max_val), max(min_val, max_val)
    clamped = tensor.clamp(low, high)
    return torch.nan_to_num(clamped, nan=(low + high) / 2, posinf=high, neginf=low)


def match_dim(x: Shaped[Tensor, "*shape"], dim: int, target_size: int) -> Shaped[Tensor, "..."]:
    """Bring one axis to a size: its first entries where it is longer, else interpolated.

    Raises:
        ArgumentError: (a ValueError) If the size is below 1.
    """
    if target_size < 1:
        raise ArgumentError(f"target_size must be 1 or more, got {target_size!r}.")
    size = x.shape[dim]
    if size >= target_size:
        return x.narrow(dim, 0, target_size)
    last = x.movedim(dim, -1)
    rows = last.reshape(1, -1, size)
    longer = interpolate(rows, size=target_size, mode="linear", align_corners=False)
    return longer.reshape(*last.shape[:-1], target_size).movedim(-1, dim)


def describe(x: Shaped[Tensor, "*shape"], name: str = "tensor") -> None:
    """Log a tensor's shape, range, moments, dtype and device, at level INFO."""
    values = x.detach().float()
    _LOGGER.info(
        "%s: shape %s, min %.4g, max %.4g, mean %.4g, std %.4g, %s on %s",
        name,
        tuple(x.shape),
        values.min().item(),
        values.max().item(),
        values.mean().item(),
        values.std(correction=0).item(),
        x.dtype,
        x.device,
    )
