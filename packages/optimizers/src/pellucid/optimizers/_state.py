"""What an optimizer knows between two steps."""

import dataclasses

from jaxtyping import Int64
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchState:
    """Where a search stands. Optimizers that remember more subclass it.

    Fields hold tensors, numbers, texts, or lists of numbers or texts: they are what a checkpoint
    stores. A state is never changed, a step returns a new one.

    Attributes:
        trigger_ids: The current trigger's token ids, int64, of shape (trigger_pos,), on the CPU.
        loss: The current trigger's loss.
    """

    trigger_ids: Int64[Tensor, " trigger_pos"]
    loss: float
