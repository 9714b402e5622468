"""Random search over blocks of tokens, for models that answer text and nothing else."""

import dataclasses
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    BaseTracker,
    Flow,
    LossTextAccessMixin,
)
from pellucid.optimizers._asktell import AskTellOptimizer
from pellucid.optimizers._checks import check_choice
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import check_counts
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._sampling import draw_tokens, sample_blocks
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._tokenizers import TOKENIZER_ROLE, find_tokenizer

MutationMode = Literal["block_random", "single_cyclic"]
BlockSchedule = Literal["fixed", "none"]

# Up to each step since the last restart, the initial block length is divided by so much.
_SHRINKING = ((10, 1), (25, 2), (50, 4), (100, 8), (500, 16))
_SMALLEST_SHARE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSearchState(SearchState):
    """Also counts steps.

    Attributes:
        local_step: Steps since the last restart.
        stale_steps: Steps since the loss last fell.
    """

    local_step: int = 0
    stale_steps: int = 0


class RandomSearchOptimizer(AskTellOptimizer[RandomSearchState]):
    """Random search (Andriushchenko et al. 2024, arXiv 2404.02151).

    A step replaces random blocks of the trigger by random tokens and moves only to a strictly
    better candidate. After `patience` steps without one, it starts again from random triggers.

    Args:
        model: Gives losses of texts: a local model, a remote one, anything that answers.
        loss: Any loss, differentiable or not.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        n_candidates: Candidates evaluated in a step.
        mutation_mode: "block_random" replaces a block at a random place, "single_cyclic" one token,
            position after position.
        schedule: "fixed" shrinks the blocks in the course of the search, "none" does not.
        initial_block_len: Tokens in a block at the start.
        patience: Steps without improvement before a restart.
        tokenizer: What triggers are made of; the model's own when omitted.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the model gives no losses of texts, or there is no tokenizer.
        ArgumentError: If a count is less than 1, or a mode is unknown.
    """

    model_requirements = (LossTextAccessMixin,)
    flow = Flow.TEXTS
    state_type = RandomSearchState
    roles = (TOKENIZER_ROLE,)

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 500,
        n_candidates: int = 128,
        mutation_mode: MutationMode = "block_random",
        schedule: BlockSchedule = "fixed",
        initial_block_len: int = 4,
        patience: int = 25,
        tokenizer: Any = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(
            n_candidates=n_candidates, initial_block_len=initial_block_len, patience=patience
        )
        check_choice("mutation_mode", mutation_mode, MutationMode)
        check_choice("schedule", schedule, BlockSchedule)
        self.n_candidates = n_candidates
        self.mutation_mode = mutation_mode
        self.schedule = schedule
        self.initial_block_len = initial_block_len
        self.patience = patience
        self.token_constraints = token_constraints or TokenConstraints()
        self._tokenizer = find_tokenizer(tokenizer, model, needed_by="RandomSearchOptimizer")

    def trigger_tokenizer(self) -> BaseTokenizer:
        """Return the tokenizer of triggers."""
        return self._tokenizer

    def ask(
        self, problem: Problem, state: RandomSearchState, random: StepRandom
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Change blocks of the trigger, or draw new triggers when it is time to restart."""
        allowed = problem.allowed_ids(self.token_constraints)
        generator = random.generator("candidates")
        if self._is_stuck(state):
            shape = (self.n_candidates, len(state.trigger_ids))
            return draw_tokens(allowed, shape, generator)
        if self.mutation_mode == "single_cyclic":
            return self._change_one(state, allowed, generator)
        return sample_blocks(
            state.trigger_ids,
            allowed,
            n_candidates=self.n_candidates,
            block_len=min(self._block_len(state.local_step), len(state.trigger_ids)),
            generator=generator,
        )

    def tell(
        self,
        state: RandomSearchState,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        losses: Float[Tensor, " n_candidates"],
    ) -> RandomSearchState:
        """Move to the best candidate if it is better, or if the search starts again."""
        lowest = int(losses.argmin())
        moved = RandomSearchState(
            trigger_ids=candidates[lowest].clone(), loss=float(losses[lowest])
        )
        if self._is_stuck(state):
            return moved
        if moved.loss < state.loss:
            return dataclasses.replace(moved, local_step=state.local_step + 1)
        return dataclasses.replace(
            state, local_step=state.local_step + 1, stale_steps=state.stale_steps + 1
        )

    def _is_stuck(self, state: RandomSearchState) -> bool:
        return state.stale_steps >= self.patience

    def _block_len(self, local_step: int) -> int:
        if self.schedule == "none":
            return self.initial_block_len
        shares = (share for limit, share in _SHRINKING if local_step <= limit)
        return max(1, self.initial_block_len // next(shares, _SMALLEST_SHARE))

    def _change_one(
        self, state: RandomSearchState, allowed: Tensor, generator: torch.Generator
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        candidates = state.trigger_ids.repeat(self.n_candidates, 1)
        position = state.local_step % len(state.trigger_ids)
        candidates[:, position] = draw_tokens(allowed, (self.n_candidates,), generator)
        return candidates
