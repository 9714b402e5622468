"""Gradient descent on embeddings, with gradients taken at the nearest tokens."""

import dataclasses

from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientEmbedAccessMixin,
    LossTokenAccessMixin,
)
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._checks import check_not_negative, check_positive
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._state import SearchState


@dataclasses.dataclass(frozen=True, kw_only=True)
class PEZState(SearchState):
    """A continuous point, and the tokens nearest to it.

    Attributes:
        point: Embeddings, float32, of shape (trigger_pos, d_model), on the CPU.
    """

    point: Float[Tensor, "trigger_pos d_model"]


class PEZOptimizer(SearchOptimizer[PEZState]):
    """Hard prompts made easy (Wen et al. 2023, arXiv 2302.03668).

    A step takes the gradient at the allowed tokens that are nearest by cosine similarity, applies
    it to the continuous point, by gradient descent with weight decay, and evaluates the tokens
    nearest to the new point. The point is held in float32 whatever the model computes in.

    Args:
        model: Gives losses of token ids and gradients at embeddings, such as
            `pellucid.hf.LMHFModel`.
        loss: A differentiable loss; it cannot read token ids.
        tracker: Where to record.
        seed: Recorded; nothing is random here.
        num_steps: Steps of a run.
        lr: The learning rate.
        weight_decay: Times the point, added to the gradient.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses of token ids or gradients at embeddings.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If `num_steps` is less than 1, `lr` not above 0 or `weight_decay` below 0.
    """

    model_requirements = (LossTokenAccessMixin, GradientEmbedAccessMixin)
    state_type = PEZState

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 300,
        lr: float = 0.1,
        weight_decay: float = 0.1,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_positive(lr=lr)
        check_not_negative(weight_decay=weight_decay)
        self.lr = lr
        self.weight_decay = weight_decay
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> PEZState:
        """Start at the embeddings of the initial trigger."""
        return PEZState(trigger_ids=trigger_ids, loss=loss, point=problem.embed(trigger_ids))

    def step(self, problem: Problem, state: PEZState, random: StepRandom) -> Moves[PEZState]:
        """Move the point by the gradient at its nearest tokens."""
        del random
        allowed = problem.allowed_ids(self.token_constraints)
        # Not trigger_ids: the initial trigger may hold tokens that are not allowed.
        here = problem.find_nearest(state.point, allowed)
        grads, _ = problem.differentiate_at_embeds(problem.embed(here)[None])
        point = state.point - self.lr * (grads[0] + self.weight_decay * state.point)
        nearest = problem.find_nearest(point, allowed)
        losses = yield nearest[None]
        return PEZState(trigger_ids=nearest, loss=float(losses[0]), point=point)
