"""Greedy Coordinate Gradient."""

from jaxtyping import Int64
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
)
from pellucid.optimizers._asktell import AskTellOptimizer
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import draw_surviving
from pellucid.optimizers._sampling import sample_substitutions
from pellucid.optimizers._state import SearchState


class GCGOptimizer(AskTellOptimizer[SearchState]):
    """Greedy Coordinate Gradient (Zou et al. 2023, arXiv 2307.15043).

    A step takes the gradient at the current trigger, offers the `sample_topk` most promising tokens
    for each position, draws candidates that replace `sample_n_replace` tokens by offered ones, and
    moves to the candidate of lowest loss, even if the loss rises.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_candidates: Candidates evaluated in a step.
        sample_topk: Tokens offered for a position; fewer if the constraints admit fewer.
        sample_n_replace: Positions that a candidate replaces.
        use_retokenize: Whether candidates must be the same tokens again once they have been text,
            so that the trigger works when it is typed.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a count is less than 1, or `sample_topk` exceeds the vocabulary.
    """

    model_requirements = (LossTokenAccessMixin, GradientTokenAccessMixin)

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 500,
        n_candidates: int = 512,
        sample_topk: int = 256,
        sample_n_replace: int = 1,
        use_retokenize: bool = True,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(
            n_candidates=n_candidates, sample_topk=sample_topk, sample_n_replace=sample_n_replace
        )
        check_topk(sample_topk, model)
        self.n_candidates = n_candidates
        self.sample_topk = sample_topk
        self.sample_n_replace = sample_n_replace
        self.use_retokenize = use_retokenize
        self.token_constraints = token_constraints or TokenConstraints()

    def ask(
        self, problem: Problem, state: SearchState, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Draw candidates among the substitutions of lowest gradient."""
        allowed = problem.allowed_ids(self.token_constraints)
        k = min(self.sample_topk, len(allowed))
        (offered,) = problem.compute_topk(state.trigger_ids[None], k, allowed).token_ids
        n_replace = min(self.sample_n_replace, len(state.trigger_ids))

        def draw(round_number: int) -> Tensor:
            return sample_substitutions(
                state.trigger_ids,
                offered,
                n_candidates=self.n_candidates,
                n_replace=n_replace,
                generator=random.generator(f"candidates/{round_number}"),
            )

        if not self.use_retokenize:
            return draw(0)
        return draw_surviving(draw, problem.survives, self.n_candidates)


def check_topk(sample_topk: int, model: BaseModel, name: str = "sample_topk") -> None:
    """Refuse to offer more tokens for a position than there are.

    Raises:
        ArgumentError: (a ValueError) If the number exceeds the model's vocabulary.
    """
    vocab_size = getattr(model, "vocab_size", sample_topk)
    if sample_topk > vocab_size:
        raise ArgumentError(
            f"{name}={sample_topk} exceeds the vocabulary of {model.get_model_name()!r}, "
            f"{vocab_size} tokens. Offer fewer tokens for a position."
        )
