"""Gradient descent on the trigger's embeddings."""

import dataclasses

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import BaseLoss, BaseModel, BaseTracker, Flow, GradientEmbedAccessMixin
from pellucid.optimizers._adam import AdamState, adam_update
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._checks import check_positive
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves
from pellucid.optimizers._random import StepRandom


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftPromptState(AdamState):
    """A soft trigger; `trigger_ids` are the tokens nearest to it, `loss` is its own.

    Attributes:
        trigger_embeds: Its embeddings, float32, of shape (trigger_pos, d_model), on the CPU.
        grad: The gradient there, of the same shape.
    """

    trigger_embeds: Float[Tensor, "trigger_pos d_model"]
    grad: Float[Tensor, "trigger_pos d_model"]


class SoftPromptOptimizer(SearchOptimizer[SoftPromptState]):
    """Descends on the embeddings of a trigger by Adam (Schwinn et al. 2024, arXiv 2402.09063).

    What is found is no text: `result.best_trigger_emb` holds it, and `best_trigger_str` is None.
    The trigger of a step, as callbacks and trackers see it, names the tokens nearest by cosine
    similarity; its loss is that of the embeddings. Embeddings and moments are held in float32
    whatever the model computes in, so that small gradients and small steps are not lost.

    Args:
        model: Gives gradients at embeddings, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss; it cannot read token ids.
        tracker: Where to record.
        seed: Recorded; nothing is random here.
        num_steps: Steps of a run.
        lr: The learning rate of Adam.
        token_constraints: Which tokens a step's trigger is named by.

    Raises:
        RequirementError: If the model lacks gradients at embeddings.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If `num_steps` is less than 1, or `lr` is not above 0.
    """

    model_requirements = (GradientEmbedAccessMixin,)
    flow = Flow.EMBEDS
    state_type = SoftPromptState

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 100,
        lr: float = 1e-3,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_positive(lr=lr)
        self.lr = lr
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> SoftPromptState:
        """Start at the embeddings of the initial trigger."""
        embeds = problem.embed(trigger_ids)
        grads, _ = problem.differentiate_at_embeds(embeds[None])
        return SoftPromptState(
            trigger_ids=trigger_ids,
            loss=loss,
            trigger_embeds=embeds,
            grad=grads[0],
            first_moment=torch.zeros_like(embeds),
            second_moment=torch.zeros_like(embeds),
        )

    def step(
        self, problem: Problem, state: SoftPromptState, random: StepRandom
    ) -> Moves[SoftPromptState]:
        """Go down, and look at loss and gradient there, both in one pass."""
        del random
        yield from ()
        state, direction = adam_update(state, state.grad)
        embeds = state.trigger_embeds - self.lr * direction
        grads, losses = problem.differentiate_at_embeds(embeds[None])
        nearest = problem.find_nearest(embeds, problem.allowed_ids(self.token_constraints))
        return dataclasses.replace(
            state,
            trigger_ids=nearest,
            loss=float(losses[0]),
            trigger_embeds=embeds,
            grad=grads[0],
        )
