"""Greedy Coordinate Gradient over triggers of any length."""

from jaxtyping import Int64
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
)
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._checks import check_shares
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcg import check_topk
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import (
    MAX_ROUNDS,
    collect_surviving,
    keep_all,
    none_survived,
)
from pellucid.optimizers._sampling import sample_deletions, sample_insertions, sample_substitutions
from pellucid.optimizers._state import SearchState


class VariableLengthGCGOptimizer(SearchOptimizer[SearchState]):
    """Greedy Coordinate Gradient (Zou et al. 2023, arXiv 2307.15043) over triggers of any length.

    A step draws candidates of three kinds around the current trigger: some replace a token by one
    that the gradient offers for its position, as in GCG; some lack a token; and some have one more,
    which the gradient offers for a neighbour of the gap it stands in. All are evaluated, one call
    for each length, and the step moves to the one of lowest loss, even if the loss rises; of equal
    ones, to the shortest.

    Args:
        model: Gives losses and gradients of token ids, such as `pellucid.hf.LMHFModel`.
        loss: A differentiable loss.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_candidates: Candidates evaluated in a step.
        min_length: Tokens of the shortest trigger.
        max_length: Tokens of the longest trigger.
        length_change_share: The share of candidates that are longer or shorter, from 0 to 1, as
            many of these as of those where both are possible. There are only as many shorter ones
            as the trigger has tokens; what is left over replaces tokens.
        sample_topk: Tokens offered for a position; fewer if the constraints admit fewer.
        use_retokenize: Whether candidates must be the same tokens again once they have been text,
            so that the trigger works when it is typed.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model lacks losses or gradients of token ids.
        NotDifferentiableError: If the loss has no gradient.
        ArgumentError: If a number is out of its range, or the shortest trigger longer than the
            longest.
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
        n_candidates: int = 512,
        min_length: int = 1,
        max_length: int = 40,
        length_change_share: float = 0.5,
        sample_topk: int = 256,
        use_retokenize: bool = True,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(
            n_candidates=n_candidates,
            min_length=min_length,
            max_length=max_length,
            sample_topk=sample_topk,
        )
        check_shares(length_change_share=length_change_share)
        check_topk(sample_topk, model)
        if min_length > max_length:
            raise ArgumentError(
                f"min_length={min_length} exceeds max_length={max_length}: no trigger is so long."
            )
        self.n_candidates = n_candidates
        self.min_length = min_length
        self.max_length = max_length
        self.length_change_share = length_change_share
        self.sample_topk = sample_topk
        self.use_retokenize = use_retokenize
        self.token_constraints = token_constraints or TokenConstraints()

    def check_start(self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"]) -> None:
        """Refuse triggers of several parts, and lengths that are none of the search's or model's.

        Raises:
            ArgumentError: If the trigger has parts, or is shorter or longer than it may be.
            TemplateError: If the longest trigger does not fit into the model.
        """
        if problem.part_lengths is not None:
            raise ArgumentError(
                "VariableLengthGCGOptimizer searches triggers of any length, and the parts of this "
                f"one are held to theirs, {list(problem.part_lengths)!r}. Use templates for one "
                "trigger, or an optimizer that keeps its length."
            )
        if not self.min_length <= len(trigger_ids) <= self.max_length:
            raise ArgumentError(
                f"the initial trigger has {len(trigger_ids)} tokens, expected from "
                f"{self.min_length} to {self.max_length}. Give another, or change min_length or "
                "max_length."
            )
        problem.check_length(self.max_length)

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> SearchState:
        """Return the state before the first step."""
        del problem
        return SearchState(trigger_ids=trigger_ids, loss=loss)

    def step(self, problem: Problem, state: SearchState, random: StepRandom) -> Moves[SearchState]:
        """Draw candidates of each length, and move to the best."""
        allowed = problem.allowed_ids(self.token_constraints)
        k = min(self.sample_topk, len(allowed))
        (offered,) = problem.compute_topk(state.trigger_ids[None], k, allowed).token_ids
        moved: SearchState | None = None
        for candidates in self._draw(problem, state.trigger_ids, offered, random):
            losses = yield candidates
            lowest = int(losses.argmin())
            if moved is None or float(losses[lowest]) < moved.loss:
                moved = SearchState(
                    trigger_ids=candidates[lowest].clone(), loss=float(losses[lowest])
                )
        if moved is None:
            raise none_survived(self.n_candidates)
        return moved

    def _draw(
        self,
        problem: Problem,
        trigger_ids: Int64[Tensor, " trigger_pos"],
        offered: Int64[Tensor, "trigger_pos k"],
        random: StepRandom,
    ) -> list[Tensor]:
        """Return candidates that are shorter, as long, and longer, as far as there are any."""
        n_shorter, n_longer = self._share_out(len(trigger_ids))
        n_equal = self.n_candidates - n_shorter - n_longer
        survives = problem.survives if self.use_retokenize else keep_all

        def shorten(_: int) -> Tensor:
            generator = random.generator("shorter")
            return sample_deletions(trigger_ids, n_candidates=n_shorter, generator=generator)

        def replace(round_number: int) -> Tensor:
            return sample_substitutions(
                trigger_ids,
                offered,
                n_candidates=n_equal,
                n_replace=1,
                generator=random.generator(f"candidates/{round_number}"),
            )

        def lengthen(round_number: int) -> Tensor:
            return sample_insertions(
                trigger_ids,
                offered,
                n_candidates=n_longer,
                generator=random.generator(f"longer/{round_number}"),
            )

        # Deletions are drawn once: there are no others.
        kinds = (
            (shorten, n_shorter, 1),
            (replace, n_equal, MAX_ROUNDS),
            (lengthen, n_longer, MAX_ROUNDS),
        )
        groups = (
            collect_surviving(draw, survives, n, n_rounds=n_rounds)
            for draw, n, n_rounds in kinds
            if n
        )
        return [group for group in groups if len(group)]

    def _share_out(self, length: int) -> tuple[int, int]:
        """Return how many candidates shall be shorter, and how many longer."""
        n_changing = round(self.n_candidates * self.length_change_share)
        if length == self.min_length:
            return 0, n_changing if length < self.max_length else 0
        n_longer = 0 if length == self.max_length else n_changing - n_changing // 2
        return min(n_changing - n_longer, length), n_longer
