"""The recurrent state that a state space leaves behind, which transformers keeps for the next run.

A state space shows its state to nobody on the way: a scan, or a kernel, goes over all positions at
once. What is left after the last one is in the cache of a run that keeps one, and the run that is
given this cache starts from it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._engine._execution import Scratch, Step
from pellucid.bridge._engine._readings import Reading, Source

Fire = Callable[[Tensor], Tensor]

# The argument of a mixer's forward that holds all layers' states.
_HOLDER = "cache_params"


def keeps_state(mixer: nn.Module) -> bool:
    """Say whether a mixer is handed what keeps its state."""
    names = inspect.signature(mixer.forward).parameters
    if _HOLDER not in names or not isinstance(getattr(mixer, "layer_idx", None), int):
        return False
    from transformers import Cache  # noqa: PLC0415 - costs seconds, unless a model has paid them

    # Earlier releases kept it elsewhere.
    return hasattr(Cache, "get_recurrent_state")


@dataclasses.dataclass(frozen=True, eq=False)
class KeptState:
    """The state after the last position of a run; the run that goes on starts from an edit of it.

    Runs that keep no cache (in training mode, say) have none.

    Attributes:
        mixer: The mixer.
    """

    mixer: nn.Module

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Fire on it once the mixer has run; a change is put back where it was kept."""
        key = (self.mixer, "holder")

        def keep(holder: Any, scratch: Scratch) -> Any:
            scratch[key] = holder
            return holder

        def after(output: Tensor, scratch: Scratch) -> Tensor:
            holder = scratch.pop(key)
            if holder is not None:
                state = self._read(holder)
                made = fire(state)
                if made is not state:
                    holder.update_recurrent_state(made, self._number)
            return output

        return [Step(self.mixer, "before", keep, _HOLDER), Step(self.mixer, "after", after)]

    def reading(self) -> Reading:
        """Read it from what keeps it, at once: the next run writes into it."""

        def derive(holder: Any) -> Tensor:
            with torch.no_grad():
                return self._read(holder)

        return Reading((Source(self.mixer, "before", _HOLDER),), derive, needs_weights=True)

    @property
    def _number(self) -> int:
        mixer: Any = self.mixer
        return mixer.layer_idx

    def _read(self, holder: Any) -> Tensor:
        return holder.get_recurrent_state(self._number).clone()
