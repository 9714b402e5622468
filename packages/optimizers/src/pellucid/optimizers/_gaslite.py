"""GASLITE: many positions a step, one after the other, under one averaged gradient."""

import dataclasses

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
)
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcg import check_topk
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import keep_all
from pellucid.optimizers._sampling import random_single_flips, substitute_at
from pellucid.optimizers._state import SearchState


class GASLITEOptimizer(SearchOptimizer[SearchState]):
    """GASLITE (Ben-Tov and Sharif 2024, arXiv 2412.20953).

    A step averages the normalized gradients of the trigger and of copies with one random token
    each. Then, for `n_flip` random positions in turn, it evaluates the tokens of lowest average
    there and takes the best if it is better than the token in place, so that the loss never rises.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.EncoderHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_grad: Triggers that the gradient is averaged over.
        n_flip: Positions of a step; fewer if the trigger is shorter.
        n_candidates: Tokens evaluated for a position; fewer if the constraints admit fewer.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
        use_random_gradient: Whether to evaluate random tokens instead, to tell what the gradient
            contributes.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a count is less than 1, or `n_candidates` exceeds the vocabulary.
    """

    model_requirements = (LossTokenAccessMixin, GradientTokenAccessMixin)

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 100,
        n_grad: int = 50,
        n_flip: int = 20,
        n_candidates: int = 128,
        use_retokenize: bool = True,
        use_random_gradient: bool = False,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(n_grad=n_grad, n_flip=n_flip, n_candidates=n_candidates)
        check_topk(n_candidates, model, "n_candidates")
        self.n_grad = n_grad
        self.n_flip = n_flip
        self.n_candidates = n_candidates
        self.use_retokenize = use_retokenize
        self.use_random_gradient = use_random_gradient
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> SearchState:
        """Start from the initial trigger."""
        del problem
        return SearchState(trigger_ids=trigger_ids, loss=loss)

    def step(self, problem: Problem, state: SearchState, random: StepRandom) -> Moves[SearchState]:
        """Improve random positions in ascending order."""
        offered = self._offer(problem, state.trigger_ids, random)
        survives = problem.survives if self.use_retokenize else keep_all
        order = torch.randperm(len(state.trigger_ids), generator=random.generator("positions"))
        for position in sorted(order[: self.n_flip].tolist()):
            tokens = offered[position]
            other = tokens[tokens != state.trigger_ids[position]]
            candidates = substitute_at(state.trigger_ids, position, other)
            candidates = candidates[survives(candidates)]
            if len(candidates):
                state = keep_better(state, candidates, (yield candidates))
        return state

    def _offer(
        self, problem: Problem, trigger_ids: Tensor, random: StepRandom
    ) -> Int64[Tensor, "trigger_pos k"]:
        allowed = problem.allowed_ids(self.token_constraints)
        k = min(self.n_candidates, len(allowed))
        if self.use_random_gradient:
            generator = random.generator("random gradient")
            return draw_offers(allowed, (len(trigger_ids), k), generator)
        return offer_by_gradient(
            problem, trigger_ids, allowed, n_grad=self.n_grad, k=k, random=random
        )


def offer_by_gradient(
    problem: Problem,
    trigger_ids: Int64[Tensor, " trigger_pos"],
    allowed_ids: Int64[Tensor, " n_allowed"],
    *,
    n_grad: int,
    k: int,
    random: StepRandom,
) -> Int64[Tensor, "trigger_pos k"]:
    """Return the k tokens of lowest gradient for each position, the lowest first.

    The gradient is the mean over the trigger and copies of it with one random token each, every
    position's scaled to length 1 before.
    """
    generator = random.generator("copies")
    copies = random_single_flips(trigger_ids, n_grad, allowed_ids, generator=generator)
    found = problem.compute_topk(copies, k, allowed_ids, average=True, normalize=True)
    return found.token_ids[0]


def keep_better(
    state: SearchState,
    candidates: Int64[Tensor, "n_candidates trigger_pos"],
    losses: Float[Tensor, " n_candidates"],
) -> SearchState:
    """Return the state moved to the best candidate, if that is better."""
    lowest = int(losses.argmin())
    if not float(losses[lowest]) < state.loss:
        return state
    trigger_ids = candidates[lowest].clone()
    return dataclasses.replace(state, trigger_ids=trigger_ids, loss=float(losses[lowest]))


def draw_offers(
    allowed_ids: Int64[Tensor, " n_allowed"], shape: tuple[int, int], generator: torch.Generator
) -> Int64[Tensor, "trigger_pos k"]:
    """Return random tokens for each position, no token twice at one."""
    n_positions, k = shape
    orders = [torch.randperm(len(allowed_ids), generator=generator) for _ in range(n_positions)]
    return allowed_ids[torch.stack([order[:k] for order in orders])]
