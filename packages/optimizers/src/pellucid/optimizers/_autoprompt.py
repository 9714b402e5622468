"""AutoPrompt: one position a step, its tokens ranked by gradient."""

import torch
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
from pellucid.optimizers._sampling import substitute_at
from pellucid.optimizers._state import SearchState


class AutoPromptOptimizer(AskTellOptimizer[SearchState]):
    """AutoPrompt (Shin et al. 2020, arXiv 2010.15980).

    A step picks a random position, evaluates the tokens of lowest gradient there, and moves to the
    best of them, even if the loss rises. Where no token of a position survives retokenization,
    another position is tried.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_candidates: Candidates evaluated in a step, at most; no more than `sample_topk` are.
        sample_topk: Tokens offered for a position; fewer if the constraints admit fewer.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
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
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(n_candidates=n_candidates, sample_topk=sample_topk)
        check_topk(sample_topk, model)
        self.n_candidates = n_candidates
        self.sample_topk = sample_topk
        self.use_retokenize = use_retokenize
        self.token_constraints = token_constraints or TokenConstraints()

    def ask(
        self, problem: Problem, state: SearchState, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Offer the tokens of lowest gradient for one random position."""
        allowed = problem.allowed_ids(self.token_constraints)
        k = min(self.n_candidates, self.sample_topk, len(allowed))
        (offered,) = problem.compute_topk(state.trigger_ids[None], k, allowed).token_ids
        generator = random.generator("position")
        positions = torch.randperm(len(state.trigger_ids), generator=generator).tolist()
        return take_surviving(
            (substitute_at(state.trigger_ids, i, offered[i]) for i in positions),
            problem.survives if self.use_retokenize else keep_all,
        )
