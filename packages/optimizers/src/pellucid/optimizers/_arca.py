"""ARCA: position after position, ranked by a gradient averaged over tokens at that position."""

from collections.abc import Iterator

from jaxtyping import Int64
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
)
from pellucid.optimizers._asktell import AskTellOptimizer
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcg import check_topk
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import keep_all, take_surviving
from pellucid.optimizers._sampling import draw_tokens, substitute_at
from pellucid.optimizers._state import SearchState


class ARCAOptimizer(AskTellOptimizer[SearchState]):
    """Autoregressive Randomized Coordinate Ascent (Jones et al. 2023, arXiv 2303.04381).

    Steps take the positions in turn. A step averages the gradient over `n_grad_avg` triggers with a
    random token at its position, evaluates the tokens of lowest average there, and moves to the
    best of them, even if the loss rises. Where no token of a position survives retokenization, the
    next position is tried.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_candidates: Candidates evaluated in a step, at most; no more than `sample_topk` are.
        sample_topk: Tokens offered for a position; fewer if the constraints admit fewer.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
        n_grad_avg: Triggers that the gradient is averaged over.
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
        use_retokenize: bool = True,
        n_grad_avg: int = 32,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(n_candidates=n_candidates, sample_topk=sample_topk, n_grad_avg=n_grad_avg)
        check_topk(sample_topk, model)
        self.n_candidates = n_candidates
        self.sample_topk = sample_topk
        self.use_retokenize = use_retokenize
        self.n_grad_avg = n_grad_avg
        self.token_constraints = token_constraints or TokenConstraints()

    def ask(
        self, problem: Problem, state: SearchState, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Offer the tokens of lowest average gradient for the position whose turn it is."""
        return take_surviving(
            self._offer(problem, state.trigger_ids, random),
            problem.survives if self.use_retokenize else keep_all,
        )

    def _offer(
        self, problem: Problem, trigger_ids: Tensor, random: StepRandom
    ) -> Iterator[Int64[Tensor, "n_candidates trigger_pos"]]:
        allowed = problem.allowed_ids(self.token_constraints)
        k = min(self.n_candidates, self.sample_topk, len(allowed))
        n_pos = len(trigger_ids)
        for turn in range(n_pos):
            position = (random.step - 1 + turn) % n_pos
            drawn = draw_tokens(allowed, (self.n_grad_avg,), random.generator(f"copies/{turn}"))
            copies = substitute_at(trigger_ids, position, drawn)
            found = problem.compute_topk(copies, k, allowed, average=True)
            yield substitute_at(trigger_ids, position, found.token_ids[0, position])
