"""The ask/tell protocol: an optimizer proposes candidates and is told their losses."""

from abc import abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseOptimizer,
    BaseTokenizer,
    BaseTracker,
    Flow,
    RequirementError,
)
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._state import SearchState


class AskTell(BaseOptimizer):
    """The decisions of a search: what to try next, and where to move.

    A subclass gives `ask`; it gives `start` and `tell`, too, if it remembers more than the current
    trigger, or moves otherwise than to the best candidate.

    Attributes:
        flow: Whether candidates are evaluated as token ids or as text.
        state_type: The class of its states, which a checkpoint is read back into.
        num_steps: The number of steps of a run.
        checkpoint_every: A checkpoint is written after so many steps.
    """

    flow: ClassVar[Flow] = Flow.TOKENS
    state_type: ClassVar[type[SearchState]] = SearchState
    checkpoint_every: int = 10

    loss: BaseLoss

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int,
    ) -> None:
        super().__init__(model, loss, tracker, seed)
        if loss is None:  # pyright: ignore[reportUnnecessaryComparison] - for those without types
            raise RequirementError(f"{type(self).__name__} needs a loss to lower, got None.")
        check_counts(num_steps=num_steps)
        self.num_steps = num_steps

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> SearchState:
        """Return the state before the first step."""
        del problem
        return SearchState(trigger_ids=trigger_ids, loss=loss)

    @abstractmethod
    def ask(
        self, problem: Problem, state: SearchState, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Propose candidates.

        Args:
            problem: Gradients, decoding and the retokenization filter; its losses are the run's
                business.
            state: Where the search stands.
            random: The step's source of randomness.

        Returns:
            Token ids, int64, of shape (n_candidates, trigger_pos), on the CPU.
        """

    def tell(
        self,
        state: SearchState,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        losses: Float[Tensor, " n_candidates"],
    ) -> SearchState:
        """Return the next state; by default at the best candidate, better than before or not."""
        del state
        lowest = int(losses.argmin())
        return SearchState(trigger_ids=candidates[lowest].clone(), loss=float(losses[lowest]))

    def make_problem(self) -> Problem:
        """Return the question that a run puts to the model."""
        return Problem(self.model, self.loss, flow=self.flow, tokenizer=self.trigger_tokenizer())

    def trigger_tokenizer(self) -> BaseTokenizer | None:
        """Return the tokenizer of triggers in the flow of texts; the model's own otherwise."""
        return None


def check_counts(**counts: Any) -> None:
    """Refuse counts that are not positive whole numbers.

    Raises:
        ArgumentError: (a ValueError) For the first that is not.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} must be a whole number of at least 1, got {value!r}.")
