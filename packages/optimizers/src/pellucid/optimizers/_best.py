"""The best trigger seen so far."""

import dataclasses
import math

from jaxtyping import Int64
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningBest:
    """The best trigger of a run; only a strictly lower loss replaces it, and NaN never does.

    Attributes:
        loss: Its loss; +inf before any was seen.
        trigger_ids: Its token ids, of shape (trigger_pos,).
        trigger_str: Its text.
    """

    loss: float = math.inf
    trigger_ids: Int64[Tensor, " trigger_pos"] | None = None
    trigger_str: str | None = None

    def update(
        self, loss: float, trigger_ids: Int64[Tensor, " trigger_pos"], trigger_str: str
    ) -> "RunningBest":
        """Return the better of the best so far and a trigger."""
        if self.trigger_ids is not None and not loss < self.loss:
            return self
        held = math.inf if math.isnan(loss) else loss
        return RunningBest(loss=held, trigger_ids=trigger_ids.clone(), trigger_str=trigger_str)
