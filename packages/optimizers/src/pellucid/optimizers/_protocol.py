"""What a run needs of an optimizer: where to start, and how to make one step."""

from abc import abstractmethod
from collections.abc import Generator
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from jaxtyping import Int64
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

StateT = TypeVar("StateT", bound=SearchState)

Moves: TypeAlias = Generator[Tensor, Tensor, StateT]
"""A step: yields candidates, is sent their losses, any number of times; returns the next state."""


class Search(BaseOptimizer, Generic[StateT]):
    """The decisions of a search; a `Run` does everything else.

    Attributes:
        flow: Whether candidates are evaluated as token ids, as their embeddings or as text.
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

    @abstractmethod
    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> StateT:
        """Return the state before the first step.

        Args:
            problem: The run's questions to the model.
            trigger_ids: The initial trigger.
            loss: Its loss.
        """

    @abstractmethod
    def step(self, problem: Problem, state: StateT, random: StepRandom) -> Moves[StateT]:
        """Make one step: yield candidates, be sent their losses, return the next state.

        Candidates are int64, of shape (n_candidates, trigger_pos), losses float, of shape
        (n_candidates,), both on the CPU.

        Args:
            problem: Gradients, decoding and the retokenization filter.
            state: Where the search stands.
            random: The step's source of randomness.
        """

    def check_start(self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"]) -> None:
        """Refuse what cannot be searched, before anything is computed; nothing by default.

        Args:
            problem: Knows the templates.
            trigger_ids: The initial trigger.
        """

    def conclude(self, problem: Problem, state: StateT, random: StepRandom) -> Moves[StateT]:
        """Make a last round after the last step, when a run was not cut short; none by default.

        Args:
            problem: As in `step`, and so are the others.
            state: Where the search ended.
            random: A source of randomness of its own.
        """
        del problem, random
        yield from ()
        return state

    def is_finished(self, state: StateT) -> bool:
        """Say whether to stop before all steps are made; the stop reason is "converged"."""
        del state
        return False

    def make_problem(self) -> Problem:
        """Return the questions that a run puts to the model."""
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
