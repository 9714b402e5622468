"""Adam, with its moments in the state of a search, so that a checkpoint holds them."""

import dataclasses
import math
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.optimizers._state import SearchState

_BETAS = (0.9, 0.999)
_EPS = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamState(SearchState):
    """Also holds running moments of a gradient, in float32 whatever the model computes in.

    Attributes:
        first_moment: Running mean of the gradient.
        second_moment: Running mean of its square.
        n_updates: How often the moments were updated.
    """

    first_moment: Float[Tensor, "trigger_pos _"]
    second_moment: Float[Tensor, "trigger_pos _"]
    n_updates: int = 0


_StateT = TypeVar("_StateT", bound=AdamState)


def adam_update(
    state: _StateT, grad: Float[Tensor, "trigger_pos _"]
) -> tuple[_StateT, Float[Tensor, "trigger_pos _"]]:
    """Take a gradient into account (Kingma & Ba 2015, arXiv 1412.6980).

    Args:
        state: Where the search stands.
        grad: The gradient there.

    Returns:
        The state with new moments, and the direction of ascent: what is to be subtracted, times the
        learning rate.
    """
    n_updates = state.n_updates + 1
    first = _BETAS[0] * state.first_moment + (1 - _BETAS[0]) * grad
    second = _BETAS[1] * state.second_moment + (1 - _BETAS[1]) * grad.square()
    spread = (second / (1 - _BETAS[1] ** n_updates)).sqrt()
    direction = first / (1 - _BETAS[0] ** n_updates) / (spread + _EPS)
    moved = dataclasses.replace(
        state, first_moment=first, second_moment=second, n_updates=n_updates
    )
    return moved, direction


def scale_to_greatest(
    moment: Float[Tensor, "trigger_pos _"],
) -> Float[Tensor, "trigger_pos _"]:
    """Return a moment with each position's greatest entry, in size, scaled to 1; 0 stays 0.

    Unlike Adam's direction, which is about as long for every entry, it keeps their proportions.
    """
    greatest = moment.abs().amax(dim=-1, keepdim=True)
    return moment / torch.where(greatest > 0, greatest, 1.0)


def cosine_rate(lr: float, n_updates: int, n_steps: int) -> float:
    """Return a learning rate that falls from `lr` to 0 in half a cosine over `n_steps`."""
    return lr * (1 + math.cos(math.pi * min(n_updates, n_steps) / n_steps)) / 2


def clip_norm(
    grad: Float[Tensor, "trigger_pos _"], limit: float | None, *, by_position: bool = False
) -> Float[Tensor, "trigger_pos _"]:
    """Shorten a gradient to a length, as a whole or at each position; None leaves it as it is."""
    if limit is None:
        return grad
    length = grad.norm(dim=-1, keepdim=True) if by_position else grad.norm()
    return grad * (limit / length.clamp_min(limit))
