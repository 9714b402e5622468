"""The likelihood of insertions: a softmax over all slots and tokens of a row at once.

Of logits there may be gigabytes. They are read once, piece by piece; what is asked about is
gathered from them, a number for each dropped token; and their gradient is written over them.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from pellucid.xlm.contracts import IGNORED

_PIECES = 64
_SMALLEST_PIECE = 1 << 18


def mean_insertion_nats(
    logits: Float[Tensor, "picked_pos d_vocab"],
    slots: Bool[Tensor, "batch pos"],
    target_ids: Int64[Tensor, "batch target_pos"],
    target_slots: Int64[Tensor, "batch target_pos"],
) -> Float[Tensor, " batch"]:
    """Return the mean negative log-likelihood of the insertions that would bring tokens back.

    Differentiating it overwrites the logits: they must be used for nothing else, and a second
    backward pass through the same graph raises torch's own error.

    Args:
        logits: Of each token at each slot, in reading order.
        slots: Where they are from.
        target_ids: See `ILMBatch`.
        target_slots: See `ILMBatch`.

    Returns:
        In nats, in single precision or better; 0 for rows from which nothing was dropped.
    """
    is_dropped = target_slots != IGNORED
    rows = is_dropped.nonzero()[:, 0]
    index_of = slots.flatten().cumsum(dim=0).view_as(slots) - 1
    asked = (index_of[rows, target_slots[is_dropped]], target_ids[is_dropped])
    totals, found = read_slots(logits, *asked)
    n_dropped = is_dropped.sum(dim=1)
    # The least number, not infinity, whose difference to itself would be none.
    no_slot = totals.new_full(slots.shape, torch.finfo(totals.dtype).min)
    whole = no_slot.masked_scatter(slots, totals).logsumexp(dim=1)
    score = whole.new_zeros(len(slots)).index_add(0, rows, found) / n_dropped.clamp(min=1)
    return (whole - score).where(n_dropped > 0, 0)


def read_slots(
    logits: Float[Tensor, "picked_pos d_vocab"],
    slots: Int64[Tensor, " picked_token"],
    tokens: Int64[Tensor, " picked_token"],
) -> tuple[Float[Tensor, " picked_pos"], Float[Tensor, " picked_token"]]:
    """Return the logarithm of each slot's sum of exponentials, and the logits that are asked for.

    Args:
        logits: Overwritten with their gradient when that is computed.
        slots: The row of each logit that is asked for.
        tokens: Its column.
    """
    return _read_slots(logits, slots, tokens)


class _ReadSlots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, slots: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.promote_types(logits.dtype, torch.float32)
        totals = logits.new_empty(len(logits), dtype=precision)
        for piece, total in zip(_split(logits), _split(logits, totals), strict=True):
            torch.logsumexp(piece.to(precision), dim=1, out=total)
        ctx.save_for_backward(logits, totals, slots, tokens)
        return totals, logits[slots, tokens].to(precision)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, /, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's
        logits, totals, slots, tokens = ctx.saved_tensors
        of_totals, of_found = gradients
        overwritten = logits.detach()
        parts = (overwritten, totals, of_totals)
        for piece, total, factor in zip(*(_split(logits, part) for part in parts), strict=True):
            shifted = piece if piece.dtype == total.dtype else piece.to(total.dtype)
            shifted.sub_(total[:, None]).exp_().mul_(factor[:, None])
            if shifted is not piece:
                piece.copy_(shifted)
        overwritten.index_put_((slots, tokens), of_found.to(logits.dtype), accumulate=True)
        return overwritten, None, None


# It cannot be traced, because its backward pass writes to what it has read.
_read_slots: Any = torch.compiler.disable(_ReadSlots.apply)


def _split(logits: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Part the slots, so that what is computed of a part is little beside all logits."""
    n_entries = max(_SMALLEST_PIECE, logits.numel() // _PIECES)
    part = logits if like is None else like
    return part.split(max(1, n_entries // logits.shape[1]))
