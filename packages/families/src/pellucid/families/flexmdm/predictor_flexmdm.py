"""The sampler of the family: masks are inserted and lifted until the text is whole."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.flexmdm._gaps import check_gap_type, expected_gaps
from pellucid.families.flexmdm._growing import Growing
from pellucid.families.flexmdm._leaps import LEAPS, Leap
from pellucid.families.flexmdm._noising import check_tokenizer
from pellucid.families.flexmdm.noise_flexmdm import as_flexmdm_schedule
from pellucid.families.flexmdm.types_flexmdm import (
    FlexMDMNetwork,
    FlexMDMPredictionBatch,
    FlexMDMPredictionDict,
    Moment,
)
from pellucid.xlm.modules import TokenConstraints, evaluating
from pellucid.xlm.sampling import (
    DOUBTS,
    Filled,
    PromptedPredictor,
    RowStreams,
    Stream,
    TokenPolicy,
    doubts_at,
    rank,
)

CONFIDENCES = ("position", *DOUBTS)
"""What can decide which masks are lifted first; "position" is from left to right."""


class FlexMDMPredictor(PromptedPredictor[FlexMDMPredictionBatch, FlexMDMPredictionDict]):
    """Grow texts step by step: read them, lift some masks, insert others.

    The process runs through the times of the schedule in `max_steps - 1` leaps. In a leap a missing
    token comes in, and a mask is lifted, with the chance that the schedule gives, its hazard
    integrated over the leap; the last one brings in all that is still expected, and one more
    reading fills the masks that are left. What was given never changes, EOS stays at the end, and
    of special tokens none is written. A row that is full takes what fits.

    Args:
        max_steps: The most network evaluations of a row, at least 2.
        max_new_tokens: How much each text may grow; to the `max_length` of the model if None.
        tokenizer: Filled in by the harness if None.
        model: The network; filled in by the harness if None.
        noise_schedule: A `FlexMDMNoiseSchedule`; filled in by the harness if None, and linear if
            that has none.
        top_k: Draw from the k best tokens.
        top_p: Draw from the fewest tokens that together have probability p; not with `top_k`.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
        confidence: Lift first the masks whose best token has the highest probability ("top_prob")
            or the largest margin ("prob_diff"), or where the entropy is lowest ("entropy"), or the
            leftmost ("position"); at random if None, as the process has it.
        confidence_temperature: Divides logits before confidences are read from them.
        leap: How numbers of insertions and of masks to lift are drawn: "independent" (tau-leaping),
            "systematic" or "rounded"; see `LEAPS`.
        insert_first: Lift no mask of a text in which a token is expected to be missing. What is
            shown then no longer has the law of the process, but is chosen with the length known.
        stop_below: A text without masks is done once fewer tokens than that are expected to be
            missing; None to go through all steps.
        len_predict_type: "expectation" or "distribution", to be sure of what the network predicts;
            whatever that is if None.
        eps: The times next to 1 that the network was not trained on, as for the loss.
        return_history: Return how each text came about.
        skip_special_tokens: Leave special tokens out of texts.
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere.

    Raises:
        ArgumentError: Settings contradict each other or are out of their range.
        UnknownNameError: A confidence or a leap is unknown.
    """

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int | None = None,
        tokenizer: Any = None,
        *,
        model: FlexMDMNetwork | None = None,
        noise_schedule: Any = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        confidence: str | None = None,
        confidence_temperature: float = 1.0,
        leap: str = "independent",
        insert_first: bool = False,
        stop_below: float | None = None,
        len_predict_type: str | None = None,
        eps: float = 1e-3,
        return_history: bool = False,
        skip_special_tokens: bool = True,
        add_bos: str | None = "output",
    ) -> None:
        if max_steps < 2:
            message = f"max_steps is {max_steps!r}; one step inserts and another one fills: give 2"
            raise ArgumentError(message)
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ArgumentError(f"max_new_tokens is {max_new_tokens!r}; give a positive number")
        if confidence is not None and confidence not in CONFIDENCES:
            raise UnknownNameError("confidence", confidence, CONFIDENCES)
        if leap not in LEAPS:
            raise UnknownNameError("leap", leap, LEAPS)
        if leap == "rounded" and confidence is None:
            message = (
                "leap='rounded' draws nothing, so something must order the masks; choose a "
                f"confidence among {CONFIDENCES!r}"
            )
            raise ArgumentError(message)
        if confidence_temperature <= 0:
            message = f"confidence_temperature is {confidence_temperature!r}; give a number above 0"
            raise ArgumentError(message)
        if not 0 <= eps < 1:
            raise ArgumentError(f"eps is {eps!r}; give a share of the time, 0 or more and below 1")
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        self.tokenizer, self.model, self.noise_schedule = tokenizer, model, noise_schedule
        self.tokens = TokenPolicy(temperature=temperature, top_k=top_k, top_p=top_p)
        self.confidence, self.confidence_temperature = confidence, confidence_temperature
        self.leap, self.insert_first, self.stop_below = leap, insert_first, stop_below
        self.len_predict_type, self.eps = len_predict_type, eps
        self.return_history = return_history
        self.skip_special_tokens, self.add_bos = skip_special_tokens, add_bos

    def predict(
        self,
        batch: FlexMDMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> FlexMDMPredictionDict:
        """Grow every text of a batch.

        Raises:
            RequirementError: The tokenizer has one token for padding and EOS.
            ArgumentError: The network predicts gaps in another way than was configured.
        """
        del batch_idx, dataloader_idx, dataloader_name
        self._check()
        texts = Growing.of(
            batch,
            tokenizer=self.tokenizer,
            max_new_tokens=self.max_new_tokens,
            max_length=self.model.max_length,
        )
        run = _Run(texts, RowStreams.of(batch, self.generator))
        with evaluating(self.model):
            for step in range(self.max_steps - 1):
                if not len(run.rows):
                    break
                self._leap(run, step)
            if len(run.rows):
                self._finish(run)
        start = int((batch["fixed"] | ~batch["attention_mask"]).cumprod(dim=1).sum(dim=1).min())
        return self._describe(run, start)

    def prompt_batch(self, prompts: list[str]) -> FlexMDMPredictionBatch:
        """Return a prediction batch of prompts, each with EOS after it."""
        given: Mapping[str, Any] = super().prompt_batch(prompts)
        ids, shown = given["input_ids"], given["attention_mask"]
        return {
            "input_ids": functional.pad(ids, (0, 1), value=self.tokenizer.eos_token_id),
            "attention_mask": functional.pad(shown, (0, 1), value=True),
            "fixed": functional.pad(torch.ones_like(shown), (0, 1), value=False),
        }

    def _leap(self, run: "_Run", step: int) -> None:
        """Read the texts at a time, and go on to the next one."""
        start, end = step / (self.max_steps - 1), (step + 1) / (self.max_steps - 1)
        leap, is_mask = self._leap_of(run, step, start, end), run.texts.is_mask
        chosen = None
        if self.confidence in (None, "position"):
            # No more logits are asked for than are looked at.
            chosen = self._choose(run, leap, None)
        where = is_mask if chosen is None else chosen
        logits, lengths = self._read(run, start, where)
        if chosen is None:
            chosen = self._choose(run, leap, logits)
        tokens = self._draw(run, logits, where, step)
        is_distribution = self.model.len_predict_type == "distribution"
        said = expected_gaps(lengths.double(), is_distribution=is_distribution)
        missing = said.where(run.texts.is_slot, 0.0).sum(dim=1)
        if self.insert_first:
            chosen = chosen & ((missing < 0.5) | (run.texts.room == 0))[:, None]
        counts = leap.count_insertions(run.texts, lengths, is_distribution=is_distribution)
        run.carry(leap, missing, counts, is_mask, chosen)
        run.texts = run.texts.write(tokens, chosen, self._constraints).insert(counts)
        self._remember(run, end)
        may_grow = run.texts.is_slot.any(dim=1) & (run.texts.room > 0)
        may_grow &= step < self.max_steps - 2
        if self.stop_below is not None:
            may_grow &= missing >= self.stop_below
        run.retire(~run.texts.is_mask.any(dim=1) & ~may_grow)

    def _finish(self, run: "_Run") -> None:
        """Read the texts once more, and fill the masks that are left."""
        is_mask = run.texts.is_mask
        logits, _ = self._read(run, 1.0, is_mask)
        tokens = self._draw(run, logits, is_mask, self.max_steps - 1)
        run.texts = run.texts.write(tokens, is_mask, self._constraints)
        self._remember(run, 1.0)
        run.retire(torch.ones_like(run.rows, dtype=torch.bool))

    def _leap_of(self, run: "_Run", step: int, start: float, end: float) -> Leap:
        schedule = as_flexmdm_schedule(self.noise_schedule)
        times = torch.tensor([start, end], dtype=torch.float64)
        insert, unmask = (
            float(one.hazard_within(times[0], times[1]))
            for one in (schedule.insertion_noise_schedule, schedule.unmasking_noise_schedule)
        )
        return Leap(
            self.leap,
            run.streams,
            step,
            insert_share=insert,
            unmask_share=unmask,
            insert_carry=run.insert_carry,
            unmask_carry=run.unmask_carry,
        )

    def _read(
        self, run: "_Run", t: float, where: Bool[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "picked_pos d_vocab"], Float[Tensor, "..."]]:
        """Return logits of some positions, and what is said of all gaps."""
        texts, width = run.texts, run.texts.width
        times = torch.full((len(texts.ids),), min(t, 1 - self.eps), device=texts.ids.device)
        read = (texts.ids[:, :width], times, texts.shown[:, :width])
        logits, lengths = self.model(*read, where=where[:, :width])
        run.count_reading()
        unread = texts.ids.shape[1] - width
        padding = (0, unread) if lengths.ndim == 2 else (0, 0, 0, unread)
        return self._constraints.restrict(logits.float()), functional.pad(lengths, padding)

    def _choose(
        self, run: "_Run", leap: Leap, logits: Float[Tensor, "picked_pos d_vocab"] | None
    ) -> Bool[Tensor, "batch pos"]:
        """Return the masks that are lifted in this leap."""
        texts, is_mask = run.texts, run.texts.is_mask
        if self.confidence is None:
            doubts = run.streams.uniforms(texts.index, step=leap.step, stream=Stream.ORDER)
        elif self.confidence == "position" or logits is None:
            doubts = texts.index.double()
        else:
            doubts = doubts_at(
                is_mask,
                logits,
                confidence=self.confidence,
                temperature=self.confidence_temperature,
            )
        return is_mask & (rank(doubts, is_mask) < leap.count_unmaskings(texts)[:, None])

    def _draw(
        self,
        run: "_Run",
        logits: Float[Tensor, "picked_pos d_vocab"],
        where: Bool[Tensor, "batch pos"],
        step: int,
    ) -> Int64[Tensor, "batch pos"]:
        uniforms = None
        if self.tokens.temperature:
            index = run.texts.index
            uniforms = run.streams.uniforms(index, step=step, stream=Stream.TOKEN)[where]
        # What stands at other positions is never looked at.
        drawn = self.tokens.draw(logits, uniforms)
        return torch.zeros_like(run.texts.ids).masked_scatter(where, drawn)

    @property
    def _constraints(self) -> TokenConstraints:
        return TokenConstraints.from_tokenizer(self.tokenizer)

    def _remember(self, run: "_Run", t: float) -> None:
        if not self.return_history:
            return
        ids, shown = run.texts.ids, run.texts.shown
        for place, row in enumerate(run.rows.tolist()):
            text = self.tokenizer.decode(ids[place][shown[place]].tolist())
            run.history[row].append((text, t, int(run.steps[row])))

    def _describe(self, run: "_Run", start: int) -> FlexMDMPredictionDict:
        filled = Filled(run.ids, run.steps.tolist(), run.seconds)
        preds = cast("FlexMDMPredictionDict", self.describe(filled, start=start))
        return {**preds, "history": run.history} if self.return_history else preds

    def _check(self) -> None:
        check_tokenizer(self.tokenizer)
        check_gap_type(self.model, "len_predict_type", self.len_predict_type)


@dataclass
class _Run:
    """Texts of a batch that are being grown.

    Attributes:
        texts: Those that are not done.
        streams: Their random numbers.
        rows: Their places in the batch, ascending.
        ids: All texts of the batch, those that are done in their last state.
        steps: Network evaluations of each text.
        seconds: Time until each text was done.
        history: How each text came about.
        insert_carry: What rounding left over of insertions, and one half.
        unmask_carry: The same of masks to lift.
    """

    texts: Growing
    streams: RowStreams
    rows: Int64[Tensor, " kept"] = field(init=False)
    ids: Int64[Tensor, "batch pos"] = field(init=False)
    steps: Int64[Tensor, " batch"] = field(init=False)
    seconds: list[float] = field(init=False)
    history: list[list[Moment]] = field(init=False)
    insert_carry: Float64[Tensor, " kept"] = field(init=False)
    unmask_carry: Float64[Tensor, " kept"] = field(init=False)
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        n_rows = len(self.texts.ids)
        self.ids = self.texts.ids.clone()
        self.rows = torch.arange(n_rows, device=self.ids.device)
        self.steps, self.seconds = torch.zeros(n_rows, dtype=torch.long), [0.0] * n_rows
        self.history = [[] for _ in range(n_rows)]
        half = torch.full((n_rows,), 0.5, dtype=torch.float64, device=self.ids.device)
        self.insert_carry, self.unmask_carry = half, half
        self.retire(~(self.texts.is_mask | self.texts.is_slot).any(dim=1))

    def count_reading(self) -> None:
        """Note that the network read each of the texts."""
        self.steps[self.rows.cpu()] += 1

    def carry(
        self,
        leap: Leap,
        missing: Float64[Tensor, " kept"],
        counts: Int64[Tensor, "kept pos"],
        is_mask: Bool[Tensor, "kept pos"],
        chosen: Bool[Tensor, "kept pos"],
    ) -> None:
        """Note what was expected to happen in a leap and did not, at most one event."""
        inserted, lifted = counts.sum(dim=1), chosen.sum(dim=1)
        insert = self.insert_carry + leap.insert_share * missing - inserted
        unmask = self.unmask_carry + leap.unmask_share * is_mask.sum(dim=1) - lifted
        self.insert_carry, self.unmask_carry = insert.clamp(max=1.0), unmask.clamp(max=1.0)

    def retire(self, is_done: Bool[Tensor, " kept"]) -> None:
        """Leave the texts out from now on that are done."""
        seconds = time.perf_counter() - self.began
        for row in self.rows[is_done].tolist():
            self.seconds[row] = seconds
        self.ids[self.rows[is_done]] = self.texts.ids[is_done]
        if bool(is_done.any()):
            self.texts, self.streams = self.texts.keep(~is_done), self.streams.keep(~is_done)
            self.rows = self.rows[~is_done]
            self.insert_carry = self.insert_carry[~is_done]
            self.unmask_carry = self.unmask_carry[~is_done]
