"""GASLITE with joint flips, a buffer, a schedule of flips and an early stop."""

from jaxtyping import Int64
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
)
from pellucid.optimizers._bulk_flips import BulkFlipSearch, FlipPosMethod
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gaslite import offer_by_gradient
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._schedulers import NFlipScheduler


class GASLITEPlusOptimizer(BulkFlipSearch):
    """GASLITE (Ben-Tov and Sharif 2024, arXiv 2412.20953), made faster.

    The first step fills a buffer with random triggers. Each step takes the gradient as GASLITE does
    and splits its random positions into `n_bulk_flips` parts. The positions of a part are changed
    jointly, to offered tokens, and the best trigger seen so far is gone on from, so that the loss
    never rises.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.EncoderHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_grad: Triggers that the gradient is averaged over.
        n_flip: Positions of a step; fewer if the trigger is shorter.
        n_candidates: Tokens offered for a position, and candidates evaluated for a part of the
            positions, at most.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
        buffer_size: Triggers in the buffer.
        decline_n_flip_from_step: The step, or the share of all steps, after which `n_flip` declines
            evenly, down to 1 at `num_steps`; it does not when omitted.
        early_stopping_patience: A run ends after so many steps without a gain; it does not when
            omitted.
        early_stopping_threshold: The share of its value by which the loss must fall in a step for
            that to be a gain.
        n_bulk_flips: The parts that a step's positions are split into.
        flip_pos_method: Whether the positions are taken in "random" or ascending ("ordered") order.
        time_limit: Ends a run after the step in which so many seconds have passed, those before a
            resume included, with the stop reason "budget"; one of `set_budget` holds beside it.
        n_flip_scheduler: Says how many positions a step changes, instead of `n_flip`.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a setting has no meaning, or contradicts another.
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
        buffer_size: int = 10,
        decline_n_flip_from_step: int | float | None = None,
        early_stopping_patience: int | None = None,
        early_stopping_threshold: float = 0.005,
        n_bulk_flips: int = 5,
        flip_pos_method: FlipPosMethod = "random",
        time_limit: float | None = None,
        n_flip_scheduler: NFlipScheduler | None = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        check_counts(n_grad=n_grad, n_flip=n_flip)
        super().__init__(
            model,
            loss,
            tracker,
            seed,
            num_steps=num_steps,
            n_flip=n_flip,
            n_candidates=n_candidates,
            use_retokenize=use_retokenize,
            buffer_size=buffer_size,
            decline_n_flip_from_step=decline_n_flip_from_step,
            early_stopping_patience=early_stopping_patience,
            early_stopping_threshold=early_stopping_threshold,
            n_bulk_flips=n_bulk_flips,
            flip_pos_method=flip_pos_method,
            time_limit=time_limit,
            n_flip_scheduler=n_flip_scheduler,
            token_constraints=token_constraints,
        )
        self.n_grad = n_grad

    def offer(
        self,
        problem: Problem,
        trigger_ids: Int64[Tensor, " trigger_pos"],
        k: int,
        random: StepRandom,
    ) -> Int64[Tensor, "trigger_pos k"]:
        """Return the tokens of lowest average gradient."""
        allowed = problem.allowed_ids(self.token_constraints)
        return offer_by_gradient(
            problem, trigger_ids, allowed, n_grad=self.n_grad, k=k, random=random
        )
