"""Query-based attack that a proxy's losses guide."""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.core import BaseLoss, BaseModel, BaseTracker, LossTokenAccessMixin
from pellucid.optimizers._buffer import BufferedState, hold_buffer
from pellucid.optimizers._checks import check_factor
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._proxied import ProxiedSearch
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import draw_surviving
from pellucid.optimizers._sampling import sample_substitutions
from pellucid.optimizers._tokenizers import TOKENIZER_ROLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class QCGState(BufferedState):
    """Holds nothing but the buffer."""


class QCGOptimizer(ProxiedSearch[QCGState]):
    """Query-based attack (Hayase et al. 2024, arXiv 2402.12329).

    A step replaces one random token of the buffer's best trigger in many ways, keeps those of
    lowest loss on the proxy, evaluates them on the target, and puts what is better than the
    buffer's worst into it. The loss never rises.

    Args:
        model: The target; gives losses of texts.
        loss: What to lower on the target.
        tracker: Where to record.
        seed: Makes a run repeatable.
        proxy_model: Gives losses of token ids. When omitted, the target judges all candidates by
            itself, and `n_target_candidates` has no meaning.
        proxy_loss: The loss on the proxy; `loss` when omitted.
        num_steps: Steps of a run.
        n_proxy_candidates: Candidates that the proxy evaluates in a step.
        n_target_candidates: Candidates of these that the target evaluates.
        buffer_size: Triggers in the buffer.
        candidate_oversample_factor: How many times more candidates are drawn at once, to make up
            for those that would not be the same tokens again once they have been text.
        tokenizer: What triggers are made of; the proxy's or the target's own when omitted.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If a model lacks an access, or there is no tokenizer.
        ArgumentError: If a number is out of its range.
    """

    state_type = QCGState
    roles = (TOKENIZER_ROLE,)

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        proxy_model: BaseModel | None = None,
        proxy_loss: BaseLoss | None = None,
        num_steps: int = 500,
        n_proxy_candidates: int = 8192,
        n_target_candidates: int = 32,
        buffer_size: int = 128,
        candidate_oversample_factor: float = 1.5,
        tokenizer: Any = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(
            model,
            loss,
            tracker,
            seed,
            num_steps=num_steps,
            proxy_model=proxy_model,
            proxy_loss=proxy_loss,
            proxy_access=() if proxy_model in (None, model) else (LossTokenAccessMixin,),
            tokenizer=tokenizer,
        )
        check_counts(
            n_proxy_candidates=n_proxy_candidates,
            n_target_candidates=n_target_candidates,
            buffer_size=buffer_size,
        )
        check_factor("candidate_oversample_factor", candidate_oversample_factor)
        self.n_proxy_candidates = n_proxy_candidates
        self.n_target_candidates = n_target_candidates
        self.buffer_size = buffer_size
        self.candidate_oversample_factor = candidate_oversample_factor
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> QCGState:
        """Start with a buffer of the initial trigger."""
        del problem
        return QCGState(
            trigger_ids=trigger_ids,
            loss=loss,
            buffer_ids=trigger_ids[None].clone(),
            buffer_losses=torch.tensor([loss]),
        )

    def step(self, problem: Problem, state: QCGState, random: StepRandom) -> Moves[QCGState]:
        """Draw, rank, evaluate, and keep the best."""
        candidates = self._draw(problem, state.trigger_ids, random)
        proxy = problem.auxiliary.get("proxy")
        if proxy is not None:
            n_kept = min(self.n_target_candidates, len(candidates))
            ranked = proxy.compute_losses(candidates).topk(n_kept, largest=False)
            candidates = candidates[ranked.indices]
        losses = yield candidates
        return hold_buffer(state, state.buffer.merge(candidates, losses, size=self.buffer_size))

    def _draw(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], random: StepRandom
    ) -> Int64[Tensor, "_ trigger_pos"]:
        allowed = problem.allowed_ids(self.token_constraints)
        n_drawn = math.ceil(self.n_proxy_candidates * self.candidate_oversample_factor)

        def draw(round_number: int) -> Int64[Tensor, "_ trigger_pos"]:
            return sample_substitutions(
                trigger_ids,
                allowed.expand(len(trigger_ids), -1),
                n_candidates=n_drawn,
                n_replace=1,
                generator=random.generator(f"candidates/{round_number}"),
            )

        return draw_surviving(draw, problem.survives, self.n_proxy_candidates)
