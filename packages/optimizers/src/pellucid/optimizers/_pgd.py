"""Projected gradient descent on relaxed one-hot tokens."""

import dataclasses
from typing import Literal

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
from pellucid.optimizers._adam import (
    AdamState,
    adam_update,
    clip_norm,
    cosine_rate,
    scale_to_greatest,
)
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._checks import check_choice, check_positive, check_shares
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._simplex import project_on_entropy, project_on_simplex

PGDUpdate = Literal["adam", "steepest"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGDState(AdamState):
    """A relaxed trigger; `trigger_ids` is the latest discretization.

    Attributes:
        weights: A distribution over the allowed tokens at each position, float32, of shape
            (trigger_pos, n_allowed), on the CPU.
        best_weights: That of the best discretization so far.
        lowest_loss: The loss of that discretization.
        stale_steps: Steps since a better one was found, or the search went back to it.
    """

    weights: Float[Tensor, "trigger_pos n_allowed"]
    best_weights: Float[Tensor, "trigger_pos n_allowed"]
    lowest_loss: float
    stale_steps: int = 0


class PGDOptimizer(SearchOptimizer[PGDState]):
    """Projected gradient descent (Geisler et al. 2024, arXiv 2402.09154).

    The trigger is relaxed to a distribution over tokens at each position. A step moves it by Adam,
    projects it back onto the simplex, pushes it away from the uniform distribution, and evaluates
    its likeliest tokens. After `patience` steps without a better trigger it goes back to the best.
    The learning rate falls in half a cosine, and starts again from the top, over and over.

    Adam moves all tokens of a position by about as much, promising or not, and needs many steps to
    tell them apart. With `update="steepest"`, which is not of the paper, tokens move in proportion
    to the running mean of the gradient, the foremost by `lr`: better where steps are few.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Recorded; nothing is random here.
        num_steps: Steps of a run.
        lr: The learning rate of Adam, at the top of each period.
        lr_period: Steps in which it falls; it does not when None.
        lr_floor: The share of `lr` that it falls to, from 0 to 1.
        entropy_factor: How far entropy is held below its greatest value, from 0, not at all, to 1.
        entropy_warmup_steps: Steps in which the factor rises from 0 to that.
        grad_clip_norm: What the gradient's length at a position is clipped to; None for no limit.
        patience: Steps without a better trigger before the search goes back to the best.
        update: "adam", or "steepest".
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a count is less than 1, a number out of its range, or the update unknown.
    """

    model_requirements = (LossTokenAccessMixin, GradientTokenAccessMixin)
    state_type = PGDState

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 500,
        lr: float = 0.11,
        lr_period: int | None = 60,
        lr_floor: float = 0.325,
        entropy_factor: float = 0.4,
        entropy_warmup_steps: int = 250,
        grad_clip_norm: float | None = 20.0,
        patience: int = 100,
        update: PGDUpdate = "adam",
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(entropy_warmup_steps=entropy_warmup_steps, patience=patience)
        check_positive(lr=lr)
        if lr_period is not None:
            check_counts(lr_period=lr_period)
        check_choice("update", update, PGDUpdate)
        check_shares(entropy_factor=entropy_factor, lr_floor=lr_floor)
        if grad_clip_norm is not None:
            check_positive(grad_clip_norm=grad_clip_norm)
        self.lr = lr
        self.lr_period = lr_period
        self.lr_floor = lr_floor
        self.entropy_factor = entropy_factor
        self.entropy_warmup_steps = entropy_warmup_steps
        self.grad_clip_norm = grad_clip_norm
        self.patience = patience
        self.update = update
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> PGDState:
        """Start at the initial trigger; where its token is not allowed, at the uniform weights."""
        allowed = problem.allowed_ids(self.token_constraints)
        weights = (trigger_ids[:, None] == allowed).float()
        weights = torch.where(weights.any(dim=-1, keepdim=True), weights, 1 / len(allowed))
        return PGDState(
            trigger_ids=trigger_ids,
            loss=loss,
            weights=weights,
            best_weights=weights,
            lowest_loss=loss,
            first_moment=torch.zeros_like(weights),
            second_moment=torch.zeros_like(weights),
        )

    def step(self, problem: Problem, state: PGDState, random: StepRandom) -> Moves[PGDState]:
        """Descend, project, and evaluate the likeliest tokens."""
        allowed = problem.allowed_ids(self.token_constraints)
        factor = self.entropy_factor * min(1.0, random.step / self.entropy_warmup_steps)
        (grad,) = problem.differentiate_at_probs(state.weights[None], allowed)
        grad = clip_norm(grad, self.grad_clip_norm, by_position=True)
        state, direction = adam_update(state, grad)
        if self.update == "steepest":
            direction = scale_to_greatest(state.first_moment)
        weights = project_on_simplex(state.weights - self._lr_at(random.step) * direction)
        weights = project_on_entropy(weights, factor)
        likeliest = allowed[weights.argmax(dim=-1)]
        losses = yield likeliest[None]
        moved = dataclasses.replace(
            state, trigger_ids=likeliest, loss=float(losses[0]), weights=weights
        )
        return self._keep_best(moved)

    def _lr_at(self, step: int) -> float:
        if self.lr_period is None:
            return self.lr
        lowest = self.lr_floor * self.lr
        return lowest + cosine_rate(self.lr - lowest, (step - 1) % self.lr_period, self.lr_period)

    def _keep_best(self, state: PGDState) -> PGDState:
        if state.loss < state.lowest_loss:
            return dataclasses.replace(
                state, best_weights=state.weights, lowest_loss=state.loss, stale_steps=0
            )
        if state.stale_steps + 1 < self.patience:
            return dataclasses.replace(state, stale_steps=state.stale_steps + 1)
        # The moments lead on from where the search goes back to.
        return dataclasses.replace(state, weights=state.best_weights, stale_steps=0)
