"""Beam search over the texts that a language model finds likely."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    BaseTracker,
    Flow,
    LogitsTokenAccessMixin,
    LossTextAccessMixin,
    Role,
    Targets,
    Template,
)
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._checks import check_positive
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gcg import check_topk
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, check_counts
from pellucid.optimizers._questions import question
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._relaxation import draw_gumbel
from pellucid.optimizers._roles import check_role
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._tokenizers import find_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearchState(SearchState):
    """The beams, all of one length; `trigger_ids` is the best of them.

    Attributes:
        beam_ids: Token ids, int64, of shape (k, trigger_pos), the best first; None before the first
            step.
    """

    beam_ids: Int64[Tensor, "k trigger_pos"] | None = None


class BeamSearchOptimizer(SearchOptimizer[BeamSearchState]):
    """Beam search: BEAST (Sadasivan et al. 2024, arXiv 2402.15570), adversarial decoding.

    The latter is Zhang et al. 2024, arXiv 2410.02163.

    The first step draws first tokens from what a language model expects in the trigger's place, and
    each further step draws continuations of each beam and keeps the beams of lowest loss. So the
    trigger grows by one token a step; the initial trigger is evaluated, and not built on. The best
    trigger of all lengths is returned. Where the trigger stands several times, the language model
    reads it as far as its first place; it cannot have several parts.

    Args:
        model: The target; gives losses of texts.
        loss: Any loss, differentiable or not.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Tokens of the longest trigger.
        beam_size: Beams kept.
        branching_factor: Continuations drawn for each beam; fewer if there are not so many tokens.
        top_k: Draws from so many of the likeliest allowed tokens; from all when omitted.
        temperature: Divides the logits before tokens are drawn.
        util_lm: The language model that proposes; the target itself when omitted.
        util_lm_prefix: What the language model reads before the trigger, instead of the templates.
        token_constraints: Which tokens a trigger may be made of.

    Raises:
        RequirementError: If the target gives no losses of texts, or the language model no logits.
        ArgumentError: If a count is less than 1, the temperature not above 0, or `top_k` exceeds
            the vocabulary.
    """

    model_requirements = (LossTextAccessMixin,)
    flow = Flow.TEXTS
    state_type = BeamSearchState
    roles = (
        Role(argument="util_lm", access=(LogitsTokenAccessMixin,), part="a model with logits"),
    )

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int = 40,
        beam_size: int = 15,
        branching_factor: int = 15,
        top_k: int | None = None,
        temperature: float = 1.0,
        util_lm: BaseModel | None = None,
        util_lm_prefix: str | None = None,
        token_constraints: TokenConstraints | None = None,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        check_counts(beam_size=beam_size, branching_factor=branching_factor)
        check_positive(temperature=temperature)
        self._asked: Any = model if util_lm is None else util_lm
        if top_k is not None:
            check_counts(top_k=top_k)
            check_topk(top_k, self._asked, "top_k")
        check_role("util_lm of BeamSearchOptimizer", self._asked, None, (LogitsTokenAccessMixin,))
        self._tokenizer = find_tokenizer(None, self._asked, needed_by="BeamSearchOptimizer")
        self.util_lm = util_lm
        self.beam_size = beam_size
        self.branching_factor = branching_factor
        self.top_k = top_k
        self.temperature = temperature
        self.util_lm_prefix = util_lm_prefix
        self.token_constraints = token_constraints or TokenConstraints()

    def trigger_tokenizer(self) -> BaseTokenizer:
        """Return the language model's tokenizer."""
        return self._tokenizer

    def make_problem(self) -> Problem:
        """Return the questions to the target, with those to the language model beside them."""
        reader = _Reader(self._asked, self.loss, prefix=self.util_lm_prefix)
        return Problem(
            self.model,
            self.loss,
            flow=self.flow,
            tokenizer=self._tokenizer,
            auxiliary={"util_lm": reader},
        )

    def check_start(self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"]) -> None:
        """Refuse a trigger of several parts: there is no one place to grow at."""
        del trigger_ids
        if problem.part_lengths is not None:
            raise ArgumentError(
                "BeamSearchOptimizer lets the trigger grow at its end, and this one has "
                f"{len(problem.part_lengths)} parts. Use an optimizer that replaces tokens, or one "
                "part."
            )

    def start(
        self, problem: Problem, trigger_ids: Int64[Tensor, " trigger_pos"], loss: float
    ) -> BeamSearchState:
        """Start without beams."""
        del problem
        return BeamSearchState(trigger_ids=trigger_ids, loss=loss)

    def step(
        self, problem: Problem, state: BeamSearchState, random: StepRandom
    ) -> Moves[BeamSearchState]:
        """Draw continuations, and keep the best."""
        allowed = problem.allowed_ids(self.token_constraints)
        reader = problem.auxiliary["util_lm"]
        if state.beam_ids is None:
            # What stands in the trigger's place tells nothing about its first token.
            logits = _read(reader, state.trigger_ids[None], return_trigger_logits_only=True)
            beams, n_drawn = state.trigger_ids[:0][None], self.beam_size
        else:
            beams, n_drawn = state.beam_ids, self.branching_factor
            logits = _read(reader, beams, return_after_trigger_logits_only=True)
        drawn = self._draw(logits[..., allowed], n_drawn, random)
        grown = beams.repeat_interleave(drawn.shape[1], dim=0)
        candidates = torch.cat([grown, allowed[drawn].reshape(-1, 1)], dim=1)
        losses = yield candidates
        # Stable, so that the same losses choose the same beams everywhere.
        best = losses.argsort(stable=True)[: self.beam_size]
        return BeamSearchState(
            trigger_ids=candidates[best[0]].clone(),
            loss=float(losses[best[0]]),
            beam_ids=candidates[best].clone(),
        )

    def _draw(
        self, logits: Float[Tensor, "n_candidates n_allowed"], n_drawn: int, random: StepRandom
    ) -> Int64[Tensor, "n_candidates k"]:
        """Draw distinct tokens for each beam: the greatest of noisy logits are such a sample."""
        n_tokens = min(self.top_k or logits.shape[1], logits.shape[1])
        offered = logits.topk(n_tokens, dim=-1)
        noise = draw_gumbel(tuple(offered.values.shape), random.generator("tokens"))
        noisy = offered.values / self.temperature + noise
        chosen = noisy.topk(min(n_drawn, n_tokens), dim=-1).indices
        return offered.indices.gather(-1, chosen)


class _Reader(Problem):
    """Questions to the language model; it may be the target, whose texts stay as they are."""

    def __init__(self, model: BaseModel, loss: BaseLoss, *, prefix: str | None) -> None:
        super().__init__(model, loss, flow=Flow.TOKENS)
        self._prefix = prefix

    def set_inputs(self, templates: Sequence[Template], targets: Targets | None) -> None:
        """Hand the language model the templates, or its own."""
        if self._prefix is None:
            self.model.set_inputs_from_tokens(templates, targets)
        else:
            self.model.set_inputs_from_tokens([self._prefix + OPTIMIZED_TRIGGER_PLACEHOLDER])

    def _arrange_parts(self, lengths: tuple[int, ...]) -> None:
        # `check_start` refuses them, once all is known.
        self.part_lengths = lengths


@question()
def _read(
    reader: Problem, beams: Int64[Tensor, "n_candidates trigger_pos"], **which: bool
) -> Float[Tensor, "n_candidates d_vocab"]:
    """Return the logits of one position for each beam, float32, the mean over templates."""
    found = reader.model.compute_logits_from_tokens(beams.to(reader.model.device), **which)
    return found[:, 0].float().cpu()
