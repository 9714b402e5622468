"""GCG with the tricks that later work added, on a target that may be a black box."""

import dataclasses
import math
from collections.abc import Generator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTracker,
    GradientTokenAccessMixin,
    Role,
)
from pellucid.optimizers._buffer import TriggerBuffer, hold_buffer
from pellucid.optimizers._checks import check_choice, check_factor, check_shares
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcg import check_topk
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._proxied import ProxiedSearch
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._retokenization import draw_surviving, keep_all
from pellucid.optimizers._sampling import (
    draw_tokens,
    random_single_flips,
    sample_substitutions,
    substitute_at,
)
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._visited import hash_rows, is_new

CandidateSelection = Literal["gradient", "random", "focused"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GCGPlusState(SearchState):
    """Also remembers past gradients, triggers and evaluations, as far as they are asked for.

    Attributes:
        momentum: Running mean of the gradient, float32, of shape (trigger_pos, n_allowed).
        buffer_ids: Triggers of the buffer, of shape (k, trigger_pos), the best first.
        buffer_losses: Their losses, of shape (k,).
        visited: A number for each trigger evaluated, int64.
    """

    momentum: Float[Tensor, "trigger_pos n_allowed"] | None = None
    buffer_ids: Int64[Tensor, "k trigger_pos"] | None = None
    buffer_losses: Float[Tensor, " k"] | None = None
    visited: Int64[Tensor, " _"] | None = None


class GCGPlusOptimizer(ProxiedSearch[GCGPlusState]):
    """Greedy Coordinate Gradient (Zou et al. 2023, arXiv 2307.15043), with options of later work.

    Candidates come from the gradient of a proxy, with momentum (Zhang and Wei 2024, arXiv
    2405.01229) and averaged over variations of the trigger; at random; or all at the position that
    a probe of each finds best ("focused"). They are evaluated on the target: as token ids where the
    proxy's tokenizer is the target's, as text otherwise. A step moves to the best of them, even
    uphill, or with a buffer goes on from the best trigger of all.

    With `template_batch_size`, candidates are compared on random templates of each step, and the
    winner is evaluated on all: losses of steps, buffer and result are always those on all.

    Args:
        model: The target; gives losses of texts.
        loss: What to lower on the target.
        tracker: Where to record.
        seed: Makes a run repeatable.
        proxy_model: Gives gradients of token ids; the target itself when omitted.
        proxy_loss: A differentiable loss for the proxy; `loss` when omitted.
        candidate_selection: "gradient", "random" or "focused"; the latter two need no proxy.
        num_steps: Steps of a run.
        n_candidates: Candidates evaluated in a step.
        sample_topk: Tokens offered for a position by the gradient.
        use_retokenize: Whether candidates must be the same tokens again once they have been text.
        sample_n_replace: Positions that a candidate replaces in the first and in the last step; in
            between the number changes evenly.
        candidate_oversample_factor: How many times more candidates are drawn at once, to make up
            for those that the filters drop.
        momentum: The share of past gradients in the mean, from 0 to below 1.
        skip_visited: Whether to evaluate no trigger twice in a run, as long as there are others.
        buffer_size: Triggers in the buffer; no buffer when omitted.
        n_grad_avg: Triggers that the gradient is averaged over: the current one, and copies with
            one random token each.
        template_batch_size: Templates that candidates are compared on; all when omitted.
        tokenizer: What triggers are made of; the proxy's or the target's own when omitted.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If a model lacks an access, or there is no tokenizer.
        NotDifferentiableError: If gradients are needed and the proxy's loss has none.
        ArgumentError: If a number is out of its range, or a selection is unknown.
    """

    state_type = GCGPlusState
    roles = (
        Role(
            argument="proxy_model",
            access=(GradientTokenAccessMixin,),
            part="a model with gradients of token ids",
            loss_argument="proxy_loss",
            otherwise="candidate_selection='random'",
        ),
    )

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        proxy_model: BaseModel | None = None,
        proxy_loss: BaseLoss | None = None,
        candidate_selection: CandidateSelection = "gradient",
        num_steps: int = 500,
        n_candidates: int = 512,
        sample_topk: int = 256,
        use_retokenize: bool = True,
        sample_n_replace: tuple[int, int] = (1, 1),
        candidate_oversample_factor: float = 1.1,
        momentum: float = 0.0,
        skip_visited: bool = False,
        buffer_size: int | None = None,
        n_grad_avg: int = 1,
        template_batch_size: int | None = None,
        tokenizer: Any = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        check_choice("candidate_selection", candidate_selection, CandidateSelection)
        needed = (GradientTokenAccessMixin,) if candidate_selection == "gradient" else ()
        super().__init__(
            model,
            loss,
            tracker,
            seed,
            num_steps=num_steps,
            proxy_model=proxy_model,
            proxy_loss=proxy_loss,
            proxy_access=(*needed, *self._further_proxy_access()),
            tokenizer=tokenizer,
        )
        check_counts(n_candidates=n_candidates, sample_topk=sample_topk, n_grad_avg=n_grad_avg)
        optional = {"buffer_size": buffer_size, "template_batch_size": template_batch_size}
        check_counts(**{name: count for name, count in optional.items() if count is not None})
        _check_n_replace(sample_n_replace)
        check_factor("candidate_oversample_factor", candidate_oversample_factor)
        _check_momentum(momentum)
        if candidate_selection == "gradient":
            check_topk(sample_topk, self._asked)
        self.candidate_selection = candidate_selection
        self.n_candidates = n_candidates
        self.sample_topk = sample_topk
        self.use_retokenize = use_retokenize
        self.sample_n_replace = sample_n_replace
        # Recorded beside num_steps, which a continued run may raise unless it is on a schedule.
        self.schedule_steps = None if len(set(sample_n_replace)) == 1 else num_steps
        self.candidate_oversample_factor = candidate_oversample_factor
        self.momentum = momentum
        self.skip_visited = skip_visited
        self.buffer_size = buffer_size
        self.n_grad_avg = n_grad_avg
        self.template_batch_size = template_batch_size
        self.token_constraints = token_constraints or TokenConstraints()

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> GCGPlusState:
        """Start at the initial trigger."""
        del problem
        has_buffer = self.buffer_size is not None
        return GCGPlusState(
            trigger_ids=trigger_ids,
            loss=loss,
            buffer_ids=trigger_ids[None].clone() if has_buffer else None,
            buffer_losses=torch.tensor([loss]) if has_buffer else None,
            visited=hash_rows(trigger_ids[None]) if self.skip_visited else None,
        )

    def step(
        self, problem: Problem, state: GCGPlusState, random: StepRandom
    ) -> Moves[GCGPlusState]:
        """Propose, compare on the step's templates, and move."""
        templates = self._draw_templates(problem, random)
        with problem.focus_on(templates):
            if self.candidate_selection == "gradient":
                state, offered = self._follow_gradient(problem, state, random)
            else:
                allowed = problem.allowed_ids(self.token_constraints)
                offered = allowed.expand(len(state.trigger_ids), -1)
            position = None
            if self.candidate_selection == "focused":
                position = yield from self._probe(problem, state, random)
        # All templates count for what survives.
        candidates = self._draw(problem, state, offered, position, random)
        with problem.focus_on(templates):
            candidates = self._shortlist(problem, candidates)
            losses = yield candidates
        state = self._remember(state, candidates)
        if templates is not None:
            candidates = candidates[losses.argmin()][None]
            losses = yield candidates
        return self._move(state, candidates, losses)

    def _further_proxy_access(self) -> tuple[type, ...]:
        return ()

    def _shortlist(
        self, problem: Problem, candidates: Int64[Tensor, "_ trigger_pos"]
    ) -> Int64[Tensor, "_ trigger_pos"]:
        del problem
        return candidates

    def _draw_templates(self, problem: Problem, random: StepRandom) -> list[int] | None:
        size = self.template_batch_size
        if size is None or size >= problem.n_templates:
            return None
        order = torch.randperm(problem.n_templates, generator=random.generator("templates"))
        return sorted(order[:size].tolist())

    def _follow_gradient(
        self, problem: Problem, state: GCGPlusState, random: StepRandom
    ) -> tuple[GCGPlusState, Int64[Tensor, "trigger_pos k"]]:
        allowed = problem.allowed_ids(self.token_constraints)
        proxy = problem.auxiliary["proxy"]
        k = min(self.sample_topk, len(allowed))
        generator = random.generator("copies")
        copies = random_single_flips(
            state.trigger_ids, self.n_grad_avg, allowed, generator=generator
        )
        if not self.momentum:
            found = proxy.compute_topk(copies, k, allowed, average=True, normalize=True)
            return state, found.token_ids[0]
        mean = proxy.differentiate_at_tokens(copies, allowed)
        if state.momentum is not None:
            mean = self.momentum * state.momentum + (1 - self.momentum) * mean
        offered = allowed[mean.topk(k, dim=-1, largest=False).indices]
        return dataclasses.replace(state, momentum=mean), offered

    def _probe(
        self, problem: Problem, state: GCGPlusState, random: StepRandom
    ) -> Generator[Tensor, Tensor, int]:
        """Try one random token at each position."""
        allowed = problem.allowed_ids(self.token_constraints)
        n_positions = len(state.trigger_ids)
        probes = state.trigger_ids.repeat(n_positions, 1)
        drawn = draw_tokens(allowed, (n_positions,), random.generator("probes"))
        losses = yield probes.diagonal_scatter(drawn)
        return int(losses.argmin())

    def _draw(
        self,
        problem: Problem,
        state: GCGPlusState,
        offered: Int64[Tensor, "trigger_pos k"],
        position: int | None,
        random: StepRandom,
    ) -> Int64[Tensor, "_ trigger_pos"]:
        n_drawn = math.ceil(self.n_candidates * self.candidate_oversample_factor)

        def draw(round_number: int) -> Int64[Tensor, "_ trigger_pos"]:
            generator = random.generator(f"candidates/{round_number}")
            if position is not None:
                tokens = draw_tokens(offered[position], (n_drawn,), generator)
                return substitute_at(state.trigger_ids, position, tokens)
            return sample_substitutions(
                state.trigger_ids,
                offered,
                n_candidates=n_drawn,
                n_replace=min(self._n_replace(random.step), len(state.trigger_ids)),
                generator=generator,
            )

        survives = problem.survives if self.use_retokenize else keep_all
        drawn = draw_surviving(draw, survives, n_drawn)
        if state.visited is not None:
            fresh = drawn[is_new(drawn, state.visited)]
            # Where all was seen before, going on beats coming to a halt.
            drawn = fresh if len(fresh) else drawn
        return drawn[: self.n_candidates]

    def _n_replace(self, step: int) -> int:
        first, last = self.sample_n_replace
        if self.schedule_steps is None or self.schedule_steps == 1:
            return first
        return round(first + (last - first) * (step - 1) / (self.schedule_steps - 1))

    def _remember(
        self, state: GCGPlusState, candidates: Int64[Tensor, "_ trigger_pos"]
    ) -> GCGPlusState:
        if state.visited is None:
            return state
        visited = torch.cat([state.visited, hash_rows(candidates)]).unique()
        return dataclasses.replace(state, visited=visited)

    def _move(
        self,
        state: GCGPlusState,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        losses: Float[Tensor, " n_candidates"],
    ) -> GCGPlusState:
        if self.buffer_size is None or state.buffer_ids is None or state.buffer_losses is None:
            lowest = int(losses.argmin())
            trigger_ids = candidates[lowest].clone()
            return dataclasses.replace(state, trigger_ids=trigger_ids, loss=float(losses[lowest]))
        buffer = TriggerBuffer(state.buffer_ids, state.buffer_losses)
        return hold_buffer(state, buffer.merge(candidates, losses, size=self.buffer_size))


def _check_n_replace(numbers: Any) -> None:
    if not isinstance(numbers, (tuple, list)) or len(numbers) != 2:
        raise ArgumentError(
            f"sample_n_replace must be the numbers of the first and the last step, got {numbers!r}."
        )
    for number in numbers:
        check_counts(sample_n_replace=number)


def _check_momentum(momentum: float) -> None:
    check_shares(momentum=momentum)
    if momentum == 1:
        raise ArgumentError("momentum must be below 1, or no gradient would count but the first.")
