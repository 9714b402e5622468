"""Several updates of the state from the key and the value of one token."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.tptt._modes import TRICKS, ModeError

_Lag = Callable[[int], Tensor]


def expand_virtual_tokens(
    x: Float[Tensor, "batch head pos d_head"], n: int, mode: str = "derivative"
) -> Float[Tensor, "batch head virtual_pos d_head"]:
    """Write `n` virtual tokens for each token, with the values that published models were given.

    For "derivative", slot j holds one term of a finite difference, not its sum: the token j
    positions before, times a signed binomial coefficient. For "rotative", consecutive pairs of
    features are rotated by 2πj/n; "combined" is the average of the two, "cte" a copy. What
    `LinearAttentionOp` computes is `expand_writes`, unless it is asked for the published operator.

    Args:
        x: Any floating dtype.
        n: Virtual tokens for each token.
        mode: One of those named above.

    Raises:
        ModeError: (a ValueError) If the mode is not known.
    """
    lag = _lags(x, torch.zeros_like(x[:, :, :0]).new_zeros(*x.shape[:2], n - 1, x.shape[-1]))
    coefficients = [(-1) ** k * math.comb(n - 1, k) / 2 ** (n - 1) for k in range(n)]

    def difference(slot: int) -> Tensor:
        return coefficients[n - 1 - slot] * lag(slot)

    return _expand(n, mode, difference, lambda slot: rotate_pairs(x, 2 * math.pi * slot / n), x)


def expand_writes(
    x: Float[Tensor, "*shape pos d_head"],
    n: int,
    trick: str,
    *,
    previous: Float[Tensor, "*shape lag d_head"] | None = None,
) -> Float[Tensor, "*shape virtual_pos d_head"]:
    """Write `n` virtual tokens for each token: what a state of order `n` is updated with.

    Slot m of "derivative" is the finite difference of order m, divided by 2^m so that it is no
    longer than the longest of the tokens; slot 0 is the token itself. Slot m of "rotative" is the
    token with consecutive pairs of features rotated by πm/n, of "combined" the average of both, of
    "cte" the token (arXiv 2506.17671, section 3).

    Args:
        x: Any floating dtype.
        n: Virtual tokens for each token.
        trick: One of those named above.
        previous: The n - 1 tokens before the first; zeros when omitted.

    Raises:
        ModeError: (a ValueError) If the trick is not known.
    """
    if n == 1:
        return x
    lag = _lags(x, x.new_zeros(*x.shape[:-2], n - 1, x.shape[-1]) if previous is None else previous)

    def difference(slot: int) -> Tensor:
        terms = ((-1) ** k * math.comb(slot, k) * lag(k) for k in range(1, slot + 1))
        return sum(terms, start=x) / 2**slot

    return _expand(n, trick, difference, lambda slot: rotate_pairs(x, math.pi * slot / n), x)


def rotate_pairs(x: Float[Tensor, "*shape"], angle: float) -> Float[Tensor, "*shape"]:
    """Rotate each pair of consecutive features; the last of an odd number stays as it is."""
    paired = x.shape[-1] - x.shape[-1] % 2
    first, second = x[..., 0:paired:2], x[..., 1:paired:2]
    cos, sin = math.cos(angle), math.sin(angle)
    rotated = torch.stack((cos * first - sin * second, sin * first + cos * second), dim=-1)
    return torch.cat((rotated.flatten(-2), x[..., paired:]), dim=-1)


def _lags(x: Tensor, previous: Tensor) -> _Lag:
    known = previous.shape[-2]
    extended = torch.cat((previous, x), dim=-2)
    return lambda lag: extended[..., known - lag : extended.shape[-2] - lag, :]


def _expand(
    n: int,
    trick: str,
    difference: Callable[[int], Tensor],
    rotation: Callable[[int], Tensor],
    x: Tensor,
) -> Tensor:
    slot_of: Mapping[str, Callable[[int], Tensor]] = MappingProxyType(
        {
            "derivative": difference,
            "rotative": rotation,
            "combined": lambda slot: (difference(slot) + rotation(slot)) / 2,
            "cte": lambda _: x,
        }
    )
    if trick not in slot_of:
        raise ModeError(f"trick {trick!r} is not known. Use one of {', '.join(TRICKS)}.")
    slots = [slot_of[trick](slot) for slot in range(n)]
    return torch.stack(slots, dim=-2).flatten(-3, -2)
