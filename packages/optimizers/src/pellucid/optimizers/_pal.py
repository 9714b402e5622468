"""Proxy-guided attack on a black box."""

from typing import Any, Literal

from jaxtyping import Int64
from torch import Tensor

from pellucid.core import BaseLoss, BaseModel, BaseTracker, LossTokenAccessMixin
from pellucid.optimizers._checks import check_choice
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcgplus import GCGPlusOptimizer
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import check_counts

ProxySelection = Literal["gradient", "random"]


class PALOptimizer(GCGPlusOptimizer):
    """PAL: proxy-guided black-box optimization (Sitawarin et al. 2024, arXiv 2402.09674).

    A step draws candidates by the proxy's gradient, drops those that would not be the same tokens
    again once they have been text and those that were evaluated before, lets the proxy's losses
    choose the most promising, and moves to the one that is best on the target.

    Args:
        model: The target; gives losses of texts.
        loss: What to lower on the target.
        tracker: Where to record.
        seed: Makes a run repeatable.
        proxy_model: Gives losses, and for "gradient" gradients, of token ids; the target itself
            when omitted, which then ranks nothing in advance.
        proxy_loss: The loss on the proxy; `loss` when omitted.
        num_steps: Steps of a run.
        n_candidates: Candidates of a step, before the proxy chooses.
        sample_topk: Tokens offered for a position by the gradient.
        sample_n_replace: Positions that a candidate replaces.
        candidate_oversample_factor: How many times more candidates are drawn at once.
        n_candidates_after_proxy_filter: How many the proxy chooses, if there are so many; all when
            omitted.
        candidate_selection: "gradient" or "random".
        tokenizer: What triggers are made of; the proxy's or the target's own when omitted.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If a model lacks an access, or there is no tokenizer.
        NotDifferentiableError: If gradients are needed and the proxy's loss has none.
        ArgumentError: If a number is out of its range, or a selection is unknown.
    """

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
        n_candidates: int = 512,
        sample_topk: int = 256,
        sample_n_replace: int = 1,
        candidate_oversample_factor: float = 1.5,
        n_candidates_after_proxy_filter: int | None = None,
        candidate_selection: ProxySelection = "gradient",
        tokenizer: Any = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        check_choice("candidate_selection", candidate_selection, ProxySelection)
        check_counts(sample_n_replace=sample_n_replace)
        if n_candidates_after_proxy_filter is not None:
            check_counts(n_candidates_after_proxy_filter=n_candidates_after_proxy_filter)
        self.n_candidates_after_proxy_filter = n_candidates_after_proxy_filter
        self._filters = n_candidates_after_proxy_filter is not None and (
            proxy_model is not None and proxy_model is not model
        )
        super().__init__(
            model,
            loss,
            tracker,
            seed,
            proxy_model=proxy_model,
            proxy_loss=proxy_loss,
            candidate_selection=candidate_selection,
            num_steps=num_steps,
            n_candidates=n_candidates,
            sample_topk=sample_topk,
            sample_n_replace=(sample_n_replace, sample_n_replace),
            candidate_oversample_factor=candidate_oversample_factor,
            skip_visited=True,
            tokenizer=tokenizer,
            token_constraints=token_constraints,
        )

    def _further_proxy_access(self) -> tuple[type, ...]:
        return (LossTokenAccessMixin,) if self._filters else ()

    def _shortlist(
        self, problem: Problem, candidates: Int64[Tensor, "_ trigger_pos"]
    ) -> Int64[Tensor, "_ trigger_pos"]:
        """Keep what the proxy finds best."""
        n_kept = self.n_candidates_after_proxy_filter
        if not self._filters or n_kept is None or n_kept >= len(candidates):
            return candidates
        losses = problem.auxiliary["proxy"].compute_losses(candidates)
        return candidates[losses.topk(n_kept, largest=False).indices]
