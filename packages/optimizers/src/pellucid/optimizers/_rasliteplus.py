"""GASLITEPlus without gradients, for models that answer text and nothing else."""

from typing import Any

from jaxtyping import Int64
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    BaseTracker,
    Flow,
    LogitsTokenAccessMixin,
    LossTextAccessMixin,
    RequirementError,
    Role,
    as_tokenizer,
)
from pellucid.optimizers._bulk_flips import BulkFlipSearch, FlipPosMethod
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gaslite import draw_offers
from pellucid.optimizers._likely import rank_likely
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._roles import has_same_tokens
from pellucid.optimizers._sampling import random_single_flips
from pellucid.optimizers._schedulers import NFlipScheduler
from pellucid.optimizers._tokenizers import find_tokenizer


class RASLITEPlusOptimizer(BulkFlipSearch):
    """The black-box form of GASLITEPlus (after Ben-Tov and Sharif 2024, arXiv 2412.20953).

    Steps are those of `GASLITEPlusOptimizer`, but the tokens offered for a position are those that
    a language model of one's own finds likeliest there, or random ones. The model under test only
    gives losses of texts.

    Args:
        model: Gives losses of texts: a local model, a remote one, anything that answers.
        loss: Any loss, differentiable or not.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_logit_samples: Triggers that the logits are averaged over: the current one, and copies of
            it with one random token each; the current one alone when omitted.
        n_flip: Positions of a step; a float is a share of the trigger's positions.
        n_candidates: Tokens offered for a position, and candidates evaluated for a part of the
            positions, at most.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
        use_random_logits: Whether to offer random tokens; then no language model is needed.
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
        util_lm: The language model that offers tokens; `model` when omitted.
        tokenizer: What triggers are made of; `util_lm`'s or else the model's own when omitted.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model gives no losses of texts, or if there is no language model
            with logits, or no tokenizer.
        ArgumentError: If a setting has no meaning, or contradicts another.
    """

    model_requirements = (LossTextAccessMixin,)
    roles = (
        Role(
            argument="util_lm",
            access=(LogitsTokenAccessMixin,),
            part="a model with logits",
            otherwise="use_random_logits=True",
        ),
    )
    flow = Flow.TEXTS

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 100,
        n_logit_samples: int | None = None,
        n_flip: int | float = 20,
        n_candidates: int = 128,
        use_retokenize: bool = True,
        use_random_logits: bool = False,
        buffer_size: int = 10,
        decline_n_flip_from_step: int | float | None = None,
        early_stopping_patience: int | None = None,
        early_stopping_threshold: float = 0.005,
        n_bulk_flips: int = 5,
        flip_pos_method: FlipPosMethod = "random",
        time_limit: float | None = None,
        n_flip_scheduler: NFlipScheduler | None = None,
        util_lm: BaseModel | None = None,
        tokenizer: Any = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
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
        if n_logit_samples is not None:
            check_counts(n_logit_samples=n_logit_samples)
        self.n_logit_samples = n_logit_samples
        self.use_random_logits = use_random_logits
        self.util_lm = _find_util_lm(util_lm, model, use_random_logits)
        self._tokenizer = _find_shared_tokenizer(tokenizer, model, self.util_lm)

    def trigger_tokenizer(self) -> BaseTokenizer:
        """Return the tokenizer of triggers."""
        return self._tokenizer

    def make_problem(self) -> Problem:
        """Return the questions that a run puts to the model, and to the one that offers tokens."""
        util = self.util_lm
        auxiliary = {} if util is None else {"util_lm": Problem(util, self.loss, flow=Flow.TOKENS)}
        return Problem(
            self.model,
            self.loss,
            flow=self.flow,
            tokenizer=self._tokenizer,
            auxiliary=auxiliary,
        )

    def offer(
        self,
        problem: Problem,
        trigger_ids: Int64[Tensor, " trigger_pos"],
        k: int,
        random: StepRandom,
    ) -> Int64[Tensor, "trigger_pos k"]:
        """Return the likeliest tokens, or random ones."""
        allowed = problem.allowed_ids(self.token_constraints)
        if self.use_random_logits:
            generator = random.generator("random logits")
            return draw_offers(allowed, (len(trigger_ids), k), generator)
        copies = random_single_flips(
            trigger_ids, self.n_logit_samples or 1, allowed, generator=random.generator("copies")
        )
        return rank_likely(problem.auxiliary["util_lm"], copies, allowed, k=k)


def _find_util_lm(
    util_lm: BaseModel | None, model: BaseModel, use_random_logits: bool
) -> BaseModel | None:
    if use_random_logits:
        if util_lm is not None:
            raise ArgumentError("pass util_lm or use_random_logits=True, not both.")
        return None
    found = model if util_lm is None else util_lm
    if not isinstance(found, LogitsTokenAccessMixin):
        raise RequirementError(
            f"RASLITEPlusOptimizer offers tokens by logits, which {found.get_model_name()!r} does "
            "not give. Pass util_lm=, a language model such as pellucid.hf.LMHFModel, or "
            "use_random_logits=True."
        )
    return found


def _find_shared_tokenizer(
    tokenizer: Any, model: BaseModel, util_lm: BaseModel | None
) -> BaseTokenizer:
    if not isinstance(util_lm, LogitsTokenAccessMixin):
        return find_tokenizer(tokenizer, model, needed_by="RASLITEPlusOptimizer")
    own = as_tokenizer(util_lm.tokenizer)
    if tokenizer is not None and not has_same_tokens(as_tokenizer(tokenizer), own):
        raise ArgumentError(
            f"the logits of {util_lm.get_model_name()!r} are of its own tokens, and tokenizer= is "
            "another one. Leave tokenizer= out."
        )
    return own
