"""The best triggers seen, each once, and states that go on from the best of them."""

import dataclasses
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError, replace_nan
from pellucid.optimizers._state import SearchState


@dataclasses.dataclass(frozen=True, eq=False)
class TriggerBuffer:
    """Distinct triggers and their losses, the best first.

    A value, never changed: what adds to it returns another. Of a trigger that is given twice, the
    lower loss is kept; among equal losses, what came first comes first.

    Attributes:
        triggers: Token ids, int64, of shape (k, trigger_pos), on the CPU.
        losses: Their losses, ascending, of shape (k,); NaN becomes +inf.

    Raises:
        ArgumentError: If there is no trigger, or if triggers and losses differ in number.
    """

    triggers: Int64[Tensor, "_ trigger_pos"]
    losses: Float[Tensor, " _"]

    def __post_init__(self) -> None:
        if len(self.triggers) != len(self.losses) or len(self.triggers) == 0:
            raise ArgumentError(
                "a buffer needs at least one trigger and a loss for each, got "
                f"{len(self.triggers)} triggers and {len(self.losses)} losses."
            )
        losses, order = replace_nan(self.losses).sort(stable=True)
        triggers = self.triggers[order]
        kept = _find_first_rows(triggers)
        object.__setattr__(self, "triggers", triggers[kept])
        object.__setattr__(self, "losses", losses[kept])

    @property
    def size(self) -> int:
        """The number of triggers."""
        return len(self.triggers)

    def add(self, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float) -> "TriggerBuffer":
        """Return a buffer that holds one trigger more, unless it holds that one already."""
        return self._merge_row(trigger_ids, loss, self.size + 1)

    def add_if_better(
        self, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> "TriggerBuffer":
        """Return a buffer in which a trigger takes the worst one's place, if it is better."""
        return self._merge_row(trigger_ids, loss, self.size)

    def merge(
        self,
        triggers: Int64[Tensor, "n_candidates trigger_pos"],
        losses: Float[Tensor, " n_candidates"],
        *,
        size: int | None = None,
    ) -> "TriggerBuffer":
        """Return the best of the triggers held and others.

        Args:
            triggers: Token ids.
            losses: Their losses.
            size: How many to keep, at most; as many as are held now when omitted.
        """
        both = TriggerBuffer(
            torch.cat([self.triggers, triggers]), torch.cat([self.losses, losses.to(self.losses)])
        )
        n_kept = self.size if size is None else size
        return TriggerBuffer(both.triggers[:n_kept], both.losses[:n_kept])

    def get_best_trigger(
        self, top_k: int = 1, *, generator: torch.Generator | None = None
    ) -> Int64[Tensor, " trigger_pos"]:
        """Return the best trigger, or a random one of the best.

        Args:
            top_k: Of how many of the best to draw one; of all if there are fewer.
            generator: Source of randomness, on the CPU, if `top_k` is more than 1.

        Raises:
            ArgumentError: If `top_k` is less than 1, or more and there is no generator.
        """
        if top_k < 1 or (top_k > 1 and generator is None):
            raise ArgumentError(f"top_k must be 1, or more with a generator, got {top_k!r}.")
        if top_k == 1:
            return self.triggers[0]
        row = torch.randint(min(top_k, self.size), (), generator=generator)
        return self.triggers[int(row)]

    def get_lowest_loss(self) -> float:
        """Return the best trigger's loss."""
        return float(self.losses[0])

    def get_highest_loss(self) -> float:
        """Return the worst trigger's loss."""
        return float(self.losses[-1])

    def _merge_row(self, trigger_ids: Tensor, loss: float, size: int) -> "TriggerBuffer":
        return self.merge(trigger_ids[None], torch.tensor([loss]), size=size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BufferedState(SearchState):
    """Also holds a buffer, whose best trigger is the current one.

    Attributes:
        buffer_ids: Its triggers, int64, of shape (k, trigger_pos), the best first.
        buffer_losses: Their losses, of shape (k,).
    """

    buffer_ids: Int64[Tensor, "k trigger_pos"]
    buffer_losses: Float[Tensor, " k"]

    @property
    def buffer(self) -> TriggerBuffer:
        """The buffer."""
        return TriggerBuffer(self.buffer_ids, self.buffer_losses)


_StateT = TypeVar("_StateT", bound=SearchState)


def hold_buffer(state: _StateT, buffer: TriggerBuffer) -> _StateT:
    """Return a state that holds a buffer in its fields, moved to the best trigger."""
    return dataclasses.replace(
        state,
        trigger_ids=buffer.get_best_trigger().clone(),
        loss=buffer.get_lowest_loss(),
        buffer_ids=buffer.triggers,
        buffer_losses=buffer.losses,
    )


def _find_first_rows(rows: Int64[Tensor, "n_candidates trigger_pos"]) -> Int64[Tensor, " _"]:
    """Return where each distinct row occurs first, ascending."""
    first: dict[tuple[int, ...], int] = {}
    for i, row in enumerate(rows.tolist()):
        first.setdefault(tuple(row), i)
    return torch.tensor(list(first.values()), dtype=torch.int64)
