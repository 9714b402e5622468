"""Gradient descent on a distribution over triggers."""

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
from pellucid.optimizers._adam import AdamState, adam_update, clip_norm, cosine_rate
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._checks import check_choice, check_not_negative, check_positive
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._relaxation import draw_gumbel, pull_back, relax_sample

InitMode = Literal["from_trigger", "random"]
TemperatureSchedule = Literal["linear", "gradual"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GBDAState(AdamState):
    """A distribution over triggers; `trigger_ids` is the likeliest.

    Attributes:
        logits: For each position and allowed token, float32, of shape (trigger_pos, n_allowed), on
            the CPU; so no token that is not allowed has any probability.
    """

    logits: Float[Tensor, "trigger_pos n_allowed"]


class GBDAOptimizer(SearchOptimizer[GBDAState]):
    """Gradient-based distributional attack (Guo et al. 2021, arXiv 2104.13733).

    A step draws relaxed samples from the distribution by Gumbel-softmax, averages the gradients
    with regard to its logits, moves them by Adam, and evaluates the likeliest trigger. After the
    last step, triggers drawn from the distribution are evaluated, too.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run; temperature and learning rate are scheduled over them.
        n_grad_samples: Relaxed samples of a step.
        n_final_gumbel_samples: Triggers drawn after the last step.
        initial_coeff: Logit of the initial trigger's tokens, all others' being 0.
        init_mode: "from_trigger", or "random" for normally distributed logits.
        init_noise_scale: Their standard deviation.
        temp_schedule: "linear" from `temp_start` to `temp_end`, or "gradual": from 2.5 to 1 in the
            first half, to 0.5 in the next quarter, exponentially to 0.01 in the last.
        temp_start: Temperature of the relaxation in the first step.
        temp_end: That in the last.
        lr: The learning rate of Adam.
        use_lr_schedule: Whether it falls to 0 in half a cosine.
        grad_clip_norm: What the gradient's length is clipped to; None for no limit.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a count is less than 1, a number not above 0, or a mode unknown.
    """

    model_requirements = (LossTokenAccessMixin, GradientTokenAccessMixin)
    state_type = GBDAState

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 100,
        n_grad_samples: int = 10,
        n_final_gumbel_samples: int = 100,
        initial_coeff: float = 15.0,
        init_mode: InitMode = "from_trigger",
        init_noise_scale: float = 2.0,
        temp_schedule: TemperatureSchedule = "linear",
        temp_start: float = 1.0,
        temp_end: float = 0.1,
        lr: float = 0.3,
        use_lr_schedule: bool = True,
        grad_clip_norm: float | None = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(n_grad_samples=n_grad_samples, n_final_gumbel_samples=n_final_gumbel_samples)
        check_choice("init_mode", init_mode, InitMode)
        check_choice("temp_schedule", temp_schedule, TemperatureSchedule)
        check_positive(temp_start=temp_start, temp_end=temp_end, lr=lr)
        check_not_negative(initial_coeff=initial_coeff, init_noise_scale=init_noise_scale)
        if grad_clip_norm is not None:
            check_positive(grad_clip_norm=grad_clip_norm)
        # Recorded beside num_steps, which a continued run may raise and this one may not.
        self.schedule_steps = num_steps
        self.n_grad_samples = n_grad_samples
        self.n_final_gumbel_samples = n_final_gumbel_samples
        self.initial_coeff = initial_coeff
        self.init_mode = init_mode
        self.init_noise_scale = init_noise_scale
        self.temp_schedule = temp_schedule
        self.temp_start = temp_start
        self.temp_end = temp_end
        self.lr = lr
        self.use_lr_schedule = use_lr_schedule
        self.grad_clip_norm = grad_clip_norm
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> GBDAState:
        """Start at the initial trigger; one of its tokens that is not allowed leaves no trace."""
        allowed = problem.allowed_ids(self.token_constraints)
        logits = self.initial_coeff * (trigger_ids[:, None] == allowed).float()
        return GBDAState(
            trigger_ids=trigger_ids,
            loss=loss,
            logits=logits,
            first_moment=torch.zeros_like(logits),
            second_moment=torch.zeros_like(logits),
        )

    def step(self, problem: Problem, state: GBDAState, random: StepRandom) -> Moves[GBDAState]:
        """Move the logits, and evaluate the likeliest trigger."""
        allowed = problem.allowed_ids(self.token_constraints)
        logits = self._init_logits(state, random)
        temperature = self._temperature(state.n_updates)
        noise = draw_gumbel((self.n_grad_samples, *logits.shape), random.generator("samples"))
        probs = relax_sample(logits, noise, temperature)
        grads = pull_back(probs, problem.differentiate_at_probs(probs, allowed), temperature)
        lr = self._learning_rate(state.n_updates)
        state, direction = adam_update(state, clip_norm(grads.mean(dim=0), self.grad_clip_norm))
        logits = logits - lr * direction
        likeliest = allowed[logits.argmax(dim=-1)]
        losses = yield likeliest[None]
        return dataclasses.replace(
            state, trigger_ids=likeliest, loss=float(losses[0]), logits=logits
        )

    def conclude(self, problem: Problem, state: GBDAState, random: StepRandom) -> Moves[GBDAState]:
        """Evaluate triggers drawn from the distribution."""
        allowed = problem.allowed_ids(self.token_constraints)
        shape = (self.n_final_gumbel_samples, *state.logits.shape)
        noise = draw_gumbel(shape, random.generator("final"))
        drawn = allowed[(state.logits + noise).argmax(dim=-1)]
        losses = yield drawn
        lowest = int(losses.argmin())
        return dataclasses.replace(state, trigger_ids=drawn[lowest], loss=float(losses[lowest]))

    def _init_logits(
        self, state: GBDAState, random: StepRandom
    ) -> Float[Tensor, "trigger_pos n_allowed"]:
        if self.init_mode == "from_trigger" or state.n_updates:
            return state.logits
        generator = random.generator("init")
        return self.init_noise_scale * torch.randn(state.logits.shape, generator=generator)

    def _temperature(self, n_updates: int) -> float:
        progress = n_updates / max(1, self.schedule_steps - 1)
        if self.temp_schedule == "linear":
            return self.temp_start + (self.temp_end - self.temp_start) * min(progress, 1.0)
        if progress < 0.5:
            return 2.5 - 3.0 * progress
        if progress < 0.75:
            return 1.0 - 2.0 * (progress - 0.5)
        return 0.5 * 0.02 ** (4 * min(progress, 1.0) - 3)

    def _learning_rate(self, n_updates: int) -> float:
        if not self.use_lr_schedule:
            return self.lr
        return cosine_rate(self.lr, n_updates, self.schedule_steps)
