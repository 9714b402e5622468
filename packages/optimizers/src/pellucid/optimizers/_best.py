"""The best trigger seen so far."""

import dataclasses
import math

from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.optimizers._state import SearchState


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningBest:
    """The best trigger of a run; only a strictly lower loss replaces it, and NaN never does.

    Attributes:
        loss: Its loss; +inf before any was seen.
        trigger_ids: Its token ids, of shape (trigger_pos,).
        trigger_str: Its text.
        trigger_embeds: Its embeddings, of shape (trigger_pos, d_model), if it is a soft one.
    """

    loss: float = math.inf
    trigger_ids: Int64[Tensor, " trigger_pos"] | None = None
    trigger_str: str | None = None
    trigger_embeds: Float[Tensor, "trigger_pos d_model"] | None = None

    def update(self, state: SearchState, trigger_str: str) -> "RunningBest":
        """Return the better of the best so far and a state's trigger."""
        if self.trigger_ids is not None and not state.loss < self.loss:
            return self
        return RunningBest(
            loss=math.inf if math.isnan(state.loss) else state.loss,
            trigger_ids=state.trigger_ids,
            trigger_str=trigger_str,
            trigger_embeds=getattr(state, "trigger_embeds", None),
        )
