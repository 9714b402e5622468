"""Steps that change several positions jointly and keep the best triggers in a buffer."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Generator
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError, BaseLoss, BaseModel, BaseTracker
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._buffer import BufferedState, hold_buffer
from pellucid.optimizers._checks import check_choice, check_not_negative, check_positive
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._random_triggers import draw_triggers
from pellucid.optimizers._retokenization import keep_all
from pellucid.optimizers._schedulers import ConstantScheduler, LinearScheduler, NFlipScheduler

FlipPosMethod = Literal["random", "ordered"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BulkFlipState(BufferedState):
    """Also counts the steps that gained nothing.

    Attributes:
        stale_steps: Steps since the loss last fell by enough.
    """

    stale_steps: int = 0


class BulkFlipSearch(SearchOptimizer[BulkFlipState]):
    """What GASLITEPlus and RASLITEPlus share; they differ in the tokens they offer.

    Arguments are those of `GASLITEPlusOptimizer`.
    """

    state_type = BulkFlipState

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int,
        n_flip: int | float,
        n_candidates: int,
        use_retokenize: bool,
        buffer_size: int,
        decline_n_flip_from_step: int | float | None,
        early_stopping_patience: int | None,
        early_stopping_threshold: float,
        n_bulk_flips: int,
        flip_pos_method: FlipPosMethod,
        time_limit: float | None,
        n_flip_scheduler: NFlipScheduler | None,
        token_constraints: TokenConstraints | None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        _check_n_flip(n_flip)
        check_counts(n_candidates=n_candidates, buffer_size=buffer_size, n_bulk_flips=n_bulk_flips)
        if early_stopping_patience is not None:
            check_counts(early_stopping_patience=early_stopping_patience)
        check_not_negative(early_stopping_threshold=early_stopping_threshold)
        check_choice("flip_pos_method", flip_pos_method, FlipPosMethod)
        self.n_flip = n_flip
        self.n_candidates = n_candidates
        self.use_retokenize = use_retokenize
        self.buffer_size = buffer_size
        self.decline_n_flip_from_step = decline_n_flip_from_step
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.n_bulk_flips = n_bulk_flips
        self.flip_pos_method = flip_pos_method
        self.n_flip_scheduler = n_flip_scheduler
        self.token_constraints = token_constraints or TokenConstraints()
        if n_flip_scheduler is not None and decline_n_flip_from_step is not None:
            raise ArgumentError("pass n_flip_scheduler or decline_n_flip_from_step, not both.")
        # Whatever is wrong with the decline is said here, and not after the first step.
        self._make_scheduler(n_positions=1)
        if time_limit is not None:
            check_positive(time_limit=time_limit)
        self.time_limit = time_limit

    @abstractmethod
    def offer(
        self,
        problem: Problem,
        trigger_ids: Int64[Tensor, " trigger_pos"],
        k: int,
        random: StepRandom,
    ) -> Int64[Tensor, "trigger_pos k"]:
        """Return k allowed tokens for each position, the most promising first."""

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> BulkFlipState:
        """Start with a buffer of the initial trigger."""
        del problem
        return BulkFlipState(
            trigger_ids=trigger_ids,
            loss=loss,
            buffer_ids=trigger_ids[None].clone(),
            buffer_losses=torch.tensor([loss]),
        )

    def step(
        self, problem: Problem, state: BulkFlipState, random: StepRandom
    ) -> Moves[BulkFlipState]:
        """Improve the buffer's best trigger, some positions after the other."""
        before = state.loss
        if random.step == 1:
            state = yield from self._fill_buffer(problem, state, random)
        k = min(self.n_candidates, len(problem.allowed_ids(self.token_constraints)))
        offered = self.offer(problem, state.trigger_ids, k, random)
        survives = problem.survives if self.use_retokenize else keep_all
        for i, positions in enumerate(self._choose_positions(len(state.trigger_ids), random)):
            candidates = combine_offers(
                state.trigger_ids,
                positions,
                offered,
                n_candidates=self.n_candidates,
                generator=random.generator(f"combinations/{i}"),
            )
            candidates = candidates[survives(candidates)]
            if len(candidates):
                state = self._take(state, candidates, (yield candidates))
        stale_steps = 0 if self._is_gain(before, state.loss) else state.stale_steps + 1
        return dataclasses.replace(state, stale_steps=stale_steps)

    def is_finished(self, state: BulkFlipState) -> bool:
        """Say whether the loss has hardly fallen for too long."""
        patience = self.early_stopping_patience
        return patience is not None and state.stale_steps >= patience

    def is_budget_spent(self, elapsed_s: float = 0.0) -> bool:
        """Say whether the time limit has passed, or a budget beside it is used up."""
        is_late = self.time_limit is not None and elapsed_s >= self.time_limit
        return is_late or super().is_budget_spent(elapsed_s)

    def _fill_buffer(
        self, problem: Problem, state: BulkFlipState, random: StepRandom
    ) -> Generator[Tensor, Tensor, BulkFlipState]:
        if self.buffer_size == 1:
            return state
        drawn = draw_triggers(
            problem.allowed_ids(self.token_constraints),
            (self.buffer_size - 1, len(state.trigger_ids)),
            problem.recode,
            generator=random.generator("buffer"),
        )
        if self.use_retokenize:
            drawn = drawn[problem.survives(drawn)]
        return self._take(state, drawn, (yield drawn)) if len(drawn) else state

    def _take(
        self,
        state: BulkFlipState,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        losses: Float[Tensor, " n_candidates"],
    ) -> BulkFlipState:
        return hold_buffer(state, state.buffer.merge(candidates, losses, size=self.buffer_size))

    def _choose_positions(self, n_positions: int, random: StepRandom) -> tuple[Tensor, ...]:
        n_flip = self._make_scheduler(n_positions).get_n_flip(random.step)
        order = torch.randperm(n_positions, generator=random.generator("positions"))
        chosen = order[:n_flip]
        if self.flip_pos_method == "ordered":
            chosen = chosen.sort().values
        return chosen.chunk(self.n_bulk_flips)

    def _make_scheduler(self, n_positions: int) -> NFlipScheduler:
        if self.n_flip_scheduler is not None:
            return self.n_flip_scheduler
        # A share becomes a number of positions before it declines.
        is_share = isinstance(self.n_flip, float)
        n_flip = math.ceil(self.n_flip * n_positions) if is_share else int(self.n_flip)
        if self.decline_n_flip_from_step is None:
            return ConstantScheduler(n_flip)
        return LinearScheduler(n_flip, self.num_steps, self.decline_n_flip_from_step)

    def _is_gain(self, before: float, after: float) -> bool:
        fallen = before - after
        return fallen > 0 and fallen >= self.early_stopping_threshold * abs(before)


def combine_offers(
    trigger_ids: Int64[Tensor, " trigger_pos"],
    positions: Int64[Tensor, " _"],
    offered: Int64[Tensor, "trigger_pos k"],
    *,
    n_candidates: int,
    generator: torch.Generator,
) -> Int64[Tensor, "_ trigger_pos"]:
    """Replace the tokens at some positions jointly.

    One half of the candidates takes the best offers of all positions, the second best, and so on;
    the other half takes a random offer at each. A single position takes its offers in order.

    Args:
        trigger_ids: The trigger to start from.
        positions: The positions to change.
        offered: The tokens offered for each position, the most promising first.
        n_candidates: How many candidates to make, at most.
        generator: Source of randomness, on the CPU.

    Returns:
        Distinct candidates that differ from the trigger, at those positions alone; possibly none.
    """
    k = offered.shape[1]
    n_ranked = min(k, n_candidates if len(positions) == 1 else (n_candidates + 1) // 2)
    n_random = 0 if len(positions) == 1 else n_candidates - n_ranked
    in_order = torch.arange(n_ranked)[:, None].expand(-1, len(positions))
    at_random = torch.randint(k, (n_random, len(positions)), generator=generator)
    candidates = trigger_ids.repeat(n_ranked + n_random, 1)
    candidates[:, positions] = offered[positions, torch.cat([in_order, at_random])]
    return candidates[(candidates != trigger_ids).any(dim=1)].unique(dim=0)


def _check_n_flip(n_flip: int | float) -> None:
    if not isinstance(n_flip, float):
        check_counts(n_flip=n_flip)
    elif not 0 < n_flip <= 1:
        raise ArgumentError(
            f"n_flip must be a whole number of positions, or a share above 0.0 and up to 1.0, got "
            f"{n_flip!r}."
        )
