"""GCG with most candidates judged by a draft model alone."""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTracker,
    Flow,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    Role,
)
from pellucid.optimizers._checks import check_factor
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcg import GCGOptimizer
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._roles import check_role, choose_flow
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._tokenizers import find_tokenizer


class ProbeSamplingGCGOptimizer(GCGOptimizer):
    """GCG with probe sampling (Zhao et al. 2024, arXiv 2403.01251).

    A step draws candidates as GCG does. A small draft model evaluates all of them, the target a
    random probe set. The better both agree on the ranks in the probe set, the fewer of the draft's
    best candidates are evaluated on the target: (1 - a) * n_candidates / `reduction_factor` of
    them, where a is Spearman's correlation mapped to 0 to 1. The step moves to the best candidate
    that the target evaluated.

    Args:
        model: The target; gives losses and gradients of token ids.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        draft_model: A smaller model. It is given token ids if its tokenizer is the target's, and
            text otherwise.
        draft_loss: The loss on the draft model; `loss` when omitted.
        sampling_factor: The probe set holds so many times fewer candidates than there are.
        reduction_factor: How many times fewer candidates go from draft to target at the most.
        num_steps: Steps of a run.
        n_candidates: Candidates that the draft model evaluates in a step.
        sample_topk: Tokens offered for a position; fewer if the constraints admit fewer.
        sample_n_replace: Positions that a candidate replaces.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If a model lacks an access, or the draft model has another tokenizer and
            takes no text.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a count is less than 1, or a factor less than 1.
    """

    roles = (
        Role(
            argument="draft_model",
            access=(LossTokenAccessMixin,),
            part="a cheaper model that knows the same tokens or takes text",
            loss_argument="draft_loss",
            is_required=True,
        ),
    )

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        draft_model: BaseModel,
        draft_loss: BaseLoss | None = None,
        sampling_factor: float = 16,
        reduction_factor: float = 8,
        num_steps: int = 500,
        n_candidates: int = 512,
        sample_topk: int = 256,
        sample_n_replace: int = 1,
        use_retokenize: bool = True,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(
            model,
            loss,
            tracker,
            seed,
            num_steps=num_steps,
            n_candidates=n_candidates,
            sample_topk=sample_topk,
            sample_n_replace=sample_n_replace,
            use_retokenize=use_retokenize,
            token_constraints=token_constraints,
        )
        check_factor("sampling_factor", sampling_factor)
        check_factor("reduction_factor", reduction_factor)
        owner = type(self).__name__
        self.draft_model = draft_model
        self.draft_loss = draft_loss or loss
        check_role(f"the draft model of {owner}", draft_model, None, ())
        self._tokenizer = find_tokenizer(None, model, needed_by=owner)
        self._draft_flow = choose_flow(owner, draft_model, self._tokenizer, self.draft_loss)
        by_ids = self._draft_flow is Flow.TOKENS
        needed = LossTokenAccessMixin if by_ids else LossTextAccessMixin
        check_role(f"the draft model of {owner}", draft_model, self.draft_loss, (needed,))
        self.sampling_factor = sampling_factor
        self.reduction_factor = reduction_factor

    def make_problem(self) -> Problem:
        """Return the questions to the target, with those to the draft model beside them."""
        draft = Problem(
            self.draft_model, self.draft_loss, flow=self._draft_flow, tokenizer=self._tokenizer
        )
        return Problem(self.model, self.loss, flow=self.flow, auxiliary={"draft": draft})

    def step(self, problem: Problem, state: SearchState, random: StepRandom) -> Moves[SearchState]:
        """Ask, judge by draft and probe, and evaluate what is promising."""
        candidates = self.ask(problem, state, random)
        draft_losses = problem.auxiliary["draft"].compute_losses(candidates)
        n_probes = max(1, int(len(candidates) / self.sampling_factor))
        order = torch.randperm(len(candidates), generator=random.generator("probe"))
        probe = order[:n_probes]
        probe_losses = yield candidates[probe]
        agreement = (1 + rank_correlation(draft_losses[probe], probe_losses)) / 2
        n_kept = int((1 - agreement) * len(candidates) / self.reduction_factor)
        kept = draft_losses.argsort(stable=True)[: max(1, n_kept)]
        kept_losses = yield candidates[kept]
        evaluated = torch.cat([candidates[probe], candidates[kept]])
        return self.tell(state, evaluated, torch.cat([probe_losses, kept_losses]))


def rank_correlation(a: Float[Tensor, " k"], b: Float[Tensor, " k"]) -> float:
    """Return Spearman's correlation, from -1 to 1; equal values share the mean of their ranks.

    Where there is no correlation, since there are fewer than two values or all are equal, 0.
    """
    ranks = torch.stack([_rank(a), _rank(b)])
    ranks = ranks - ranks.mean(dim=-1, keepdim=True)
    lengths = ranks.norm(dim=-1).prod()
    if lengths == 0:
        return 0.0
    return float((ranks[0] * ranks[1]).sum() / lengths)


def _rank(values: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(dim=0)
    return (last - (counts - 1) / 2).double()[places]
