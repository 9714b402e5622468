"""The activation that makes a recurrence nonlinear between chunks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu

_EPS = 1e-6


def unlinear_activation(x: Float[Tensor, "*shape"], scale: float = 2.0) -> Float[Tensor, "*shape"]:
    """Return x/scale · gelu(scale·x/‖x‖), with the norm of the last axis and gelu's tanh form.

    It is never negative: what was negative comes out small and positive.

    Args:
        x: Any floating dtype.
        scale: How much of gelu's bend is used.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) + _EPS
    return x / scale * gelu(scale * x / norm, approximate="tanh")
