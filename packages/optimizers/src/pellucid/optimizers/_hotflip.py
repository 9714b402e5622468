"""HotFlip: the one substitution that the gradient promises most of."""

import math

import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
    Substitutions,
    select_topk,
)
from pellucid.optimizers._asktell import AskTellOptimizer
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._questions import question
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import take_surviving
from pellucid.optimizers._state import SearchState

# How far down the ranking of a position a flip that survives retokenization is looked for, and how
# many are turned into text at a time.
_DEPTH = 16
_AT_A_TIME = 16


class HotFlipOptimizer(AskTellOptimizer[SearchState]):
    """HotFlip (Ebrahimi et al. 2018, arXiv 1712.06751).

    A step replaces one token: the flip, over all positions and tokens, that lowers the loss most to
    first order. It is evaluated and always accepted; nothing is random.

    With `use_retokenize`, a flip is taken for what its text is as tokens, cut off or filled up to
    the trigger's length. Should that not survive itself, break the constraints or undo the flip,
    the next best flip is taken.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Recorded; runs do not depend on it.
        num_steps: Steps of a run.
        use_retokenize: Whether triggers must be the same tokens again once they have been text.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If `num_steps` is less than 1.
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
        use_retokenize: bool = True,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        self.use_retokenize = use_retokenize
        self.token_constraints = token_constraints or TokenConstraints()

    def ask(
        self, problem: Problem, state: SearchState, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Propose the best flip."""
        del random
        allowed = problem.allowed_ids(self.token_constraints)
        flips = _rank_flips(problem, state.trigger_ids, allowed)
        if not self.use_retokenize:
            return flips[:1]

        def stands(candidates: Tensor) -> Tensor:
            changed = candidates != state.trigger_ids
            admitted = (torch.isin(candidates, allowed) | ~changed).all(dim=1)
            return changed.any(dim=1) & admitted & problem.survives(candidates)

        rounds = (problem.retokenize(part) for part in flips.split(_AT_A_TIME))
        return take_surviving(rounds, stands)[:1]


def _rank_flips(
    problem: Problem,
    trigger_ids: Int64[Tensor, " trigger_pos"],
    allowed: Int64[Tensor, " n_allowed"],
) -> Int64[Tensor, "n_candidates trigger_pos"]:
    """Return the best flips of every position, the most promising first."""
    n_offered = min(_DEPTH, len(allowed))
    (token_ids,), (changes,) = find_flips(problem, trigger_ids[None], n_offered, allowed)
    changes[token_ids == trigger_ids[:, None]] = math.inf
    order = changes.flatten().argsort(stable=True)
    flips = trigger_ids.repeat(len(order), 1)
    positions = order // token_ids.shape[1]
    flips[torch.arange(len(order)), positions] = token_ids.flatten()[order]
    return flips


@question()
def find_flips(
    problem: Problem,
    triggers: Int64[Tensor, "n_candidates trigger_pos"],
    k: int,
    allowed_ids: Int64[Tensor, " n_allowed"],
) -> Substitutions:
    """Return, for each position, the k allowed tokens of lowest gradient.

    Their scores are relative to that of the token in place: the change of the loss that a flip
    promises to first order, comparable between positions. So both are read off one gradient, which
    stays on the model's device.

    Args:
        problem: Its model gives gradients.
        triggers: The triggers.
        k: How many tokens for a position.
        allowed_ids: The tokens to choose from, ascending.
    """
    device = problem.model.device
    ids = triggers.to(device)
    grad = problem.model.compute_grad_from_tokens(problem.loss, ids).float()
    found = select_topk(grad, k, allowed_ids.to(device))
    changes = found.scores - grad.gather(-1, ids[..., None])
    return Substitutions(found.token_ids.cpu(), changes.cpu())
