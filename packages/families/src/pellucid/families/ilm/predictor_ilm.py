"""The samplers of the family: tokens are inserted anywhere, until none is missing."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.ilm._choice import STOP_STREAM, InsertionPolicy, spread
from pellucid.families.ilm._growing import Growing
from pellucid.families.ilm.datamodule_ilm import ILMSeq2SeqPredCollator
from pellucid.families.ilm.types_ilm import (
    SUFFIX_TYPE,
    ILMModel,
    ILMPredictionBatch,
    ILMPredictionDict,
    slots_of,
)
from pellucid.xlm.modules import TokenConstraints, evaluating
from pellucid.xlm.sampling import PromptedPredictor, RowStreams, TokenPolicy


class ILMPredictor(PromptedPredictor[ILMPredictionBatch, ILMPredictionDict]):
    """Insert a token at a time until a text is as long as it may get.

    A step reads the rows that go on, and no others. Nothing is ever inserted before BOS, so that a
    prompt stays as it is, and no special token is inserted anywhere.

    Args:
        max_steps: The most network evaluations of a row.
        max_length: The most tokens of a row, the prompt, CLS and BOS included; no limit if None.
        tokenizer: Filled in by the harness if None.
        noise_schedule: Not read.
        tokens_to_suppress: Further token ids that are never inserted.
        sampling_method: "sample", "sample_top_k" or "sample_top_p": of slots and tokens together;
            of the tokens of a slot if there is a `second_sampling_method`.
        top: The k of top-k; 1 always takes the best.
        p: The p of top-p.
        temperature: Divides logits; 0 always takes the best.
        second_sampling_method: Draw a slot first, by this method, from what its tokens sum up to.
        second_top: See `top`.
        second_p: See `p`.
        second_temperature: See `temperature`.
        model: The network; filled in by the harness if None.
        return_history: Return the text after each insertion.

    Raises:
        ArgumentError: A number is out of its range.
        UnknownNameError: A sampling method is unknown.
    """

    record_columns: ClassVar[tuple[str, ...]] = (
        "text",
        "text_with_spl_tokens",
        "time_taken",
        "steps_taken",
        "history",
    )

    def __init__(
        self,
        max_steps: int,
        max_length: int | None = None,
        tokenizer: Any = None,
        *,
        noise_schedule: Any = None,
        tokens_to_suppress: Sequence[int] = (),
        sampling_method: str = "sample",
        top: int = 1000,
        p: float = 0.9,
        temperature: float = 1.0,
        second_sampling_method: str | None = None,
        second_top: int = 1000,
        second_p: float = 0.9,
        second_temperature: float = 1.0,
        model: ILMModel | None = None,
        return_history: bool = False,
    ) -> None:
        for name, number in (("max_steps", max_steps), ("max_length", max_length)):
            if number is not None and number < 1:
                message = f"{name} is {number!r}; give a positive number"
                raise ArgumentError(message)
        self.max_steps, self.max_length = max_steps, max_length
        self.tokenizer, self.model, self.noise_schedule = tokenizer, model, noise_schedule
        self.tokens_to_suppress = tuple(tokens_to_suppress)
        self.return_history = return_history
        self.policy = InsertionPolicy(
            tokens=TokenPolicy.of_method(sampling_method, top=top, p=p, temperature=temperature),
            slots=None
            if second_sampling_method is None
            else TokenPolicy.of_method(
                second_sampling_method, top=second_top, p=second_p, temperature=second_temperature
            ),
        )

    def predict(
        self,
        batch: ILMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ILMPredictionDict:
        """Complete every prompt of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        growing, streams = self._begin(batch), RowStreams.of(batch, self.generator)
        with evaluating(self.model):
            for step in range(self.max_steps):
                if not len(growing.active):
                    break
                self._grow(growing, streams.keep(growing.active), step)
        return self._report(batch, growing)

    def prompt_batch(self, prompts: list[str]) -> ILMPredictionBatch:
        """Return a prediction batch of prompts, padded on the left, on the model's device."""
        rows = [self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        collate = ILMSeq2SeqPredCollator(
            self.tokenizer, 1, input_block_size=max(map(len, rows)) + 2, truncate="max"
        )
        batch = collate([{"prompt_ids": row, "input_ids": []} for row in rows])
        device = next(self.model.parameters()).device
        return {
            "input_ids": batch["input_ids"].to(device),
            "attention_mask": batch["attention_mask"].to(device),
            "token_type_ids": batch["token_type_ids"].to(device),
        }

    def stops(
        self, length_logits: Float[Tensor, "batch n_classes"] | None, streams: RowStreams, step: int
    ) -> Bool[Tensor, " batch"]:
        """Return which texts are complete: none, as far as this predictor knows."""
        del length_logits, step
        return torch.zeros_like(streams.rows, dtype=torch.bool)

    def count_missing(
        self, length_logits: Float[Tensor, "batch n_classes"] | None
    ) -> Float[Tensor, " batch"] | None:
        """Return how many tokens are missing: nobody knows, as far as this predictor does."""
        del length_logits
        return None

    def _begin(self, batch: ILMPredictionBatch) -> Growing:
        shown, slots = batch["attention_mask"].bool(), slots_of(batch)
        if not bool((batch["token_type_ids"] == SUFFIX_TYPE).any(dim=1).all()):
            message = (
                "a row has nothing to insert after; give BOS, whose token type is "
                f"{SUFFIX_TYPE}, after each prompt"
            )
            raise ArgumentError(message)
        forbidden = TokenConstraints.from_tokenizer(self.tokenizer).forbidden_ids
        limits = shown.sum(dim=1) + self.max_steps * self.policy.max_insertions
        if self.max_length is not None:
            limits = limits.clamp(max=self.max_length)
        oracle = batch.get("oracle_length")
        return Growing.of(
            batch["input_ids"],
            shown,
            slots,
            limits if oracle is None else torch.minimum(limits, oracle),
            constraints=TokenConstraints((*forbidden, *self.tokens_to_suppress)),
            pad=self.tokenizer.pad_token_id,
        )

    def _grow(self, growing: Growing, streams: RowStreams, step: int) -> None:
        """Read the rows that go on, and insert something into those that are not complete."""
        ids, shown, slots = growing.read(growing.active)
        logits, length_logits = self.model(ids, shown, where=slots)
        is_done = self.stops(length_logits, streams, step) | ~slots.any(dim=1)
        goes_on = ~is_done
        if bool(goes_on.any()):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            scores, places = spread(growing.constraints.restrict(logits), slots)
            missing = self.count_missing(length_logits)
            made = self.policy.choose(
                scores[goes_on],
                places[goes_on],
                room=growing.room()[goes_on],
                missing=None if missing is None else missing[goes_on],
                streams=streams.keep(goes_on),
                step=step,
            )
            growing.insert_all(growing.active[goes_on], made, step=step)
        growing.count_step(is_done)

    def _report(self, batch: ILMPredictionBatch, growing: Growing) -> ILMPredictionDict:
        ids, places, is_token, start = _align(batch, growing)
        ids = ids.masked_fill(~is_token, self.tokenizer.pad_token_id)
        lengths = is_token[:, start:].sum(dim=1).tolist()
        written = zip(ids[:, start:].tolist(), lengths, strict=True)
        rows = [row[:length] for row, length in written]
        decode = self.tokenizer.decode
        return {
            "text": [decode(row, skip_special_tokens=True) for row in rows],
            "text_with_spl_tokens": [decode(row) for row in rows],
            "ids": ids,
            "attention_mask": is_token,
            "positions": places.masked_fill(~is_token, 0),
            "output_start_idx": start,
            "time_taken": growing.seconds,
            "steps_taken": growing.steps,
            "history": [self._history(growing, row) for row in range(len(rows))],
        }

    def _history(self, growing: Growing, row: int) -> list[tuple[str, int]]:
        if not self.return_history:
            return []
        decode = self.tokenizer.decode
        texts = growing.history(row)
        return [(decode(ids, skip_special_tokens=True), step) for ids, step in texts]


class ILMPredictorWithStoppingClassification(ILMPredictor):
    """Insert tokens until the network says that none is missing.

    Its constructor is that of `ILMPredictor`, and further

    Args:
        stopping_threshold: A text is complete if the probability of that is at least this; if
            None, that is drawn, as the likelihood that `nll_bound` bounds has it.
        stopping_temperature: Divides the logits of that.
        force_predict_first_step: Insert a token in the first step, whatever the network says.

    Raises:
        ArgumentError: A number is out of its range.
    """

    def __init__(
        self,
        max_steps: int,
        max_length: int | None = None,
        tokenizer: Any = None,
        *,
        stopping_threshold: float | None = 0.9,
        stopping_temperature: float = 1.0,
        force_predict_first_step: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(max_steps, max_length, tokenizer, **settings)
        if stopping_threshold is not None and not 0 < stopping_threshold <= 1:
            message = (
                f"stopping_threshold is {stopping_threshold!r}; give a number in (0, 1], or None"
            )
            raise ArgumentError(message)
        if stopping_temperature <= 0:
            message = f"stopping_temperature is {stopping_temperature!r}; give a positive number"
            raise ArgumentError(message)
        self.stopping_threshold = stopping_threshold
        self.stopping_temperature = stopping_temperature
        self.force_predict_first_step = force_predict_first_step

    def stops(
        self, length_logits: Float[Tensor, "batch n_classes"] | None, streams: RowStreams, step: int
    ) -> Bool[Tensor, " batch"]:
        """Return which texts are complete.

        Raises:
            RequirementError: The network does not say.
        """
        if length_logits is None:
            message = (
                f"{type(self.model).__name__} does not say when a text is complete; give a model "
                "with a head for it, or ILMPredictor, which inserts as much as it may"
            )
            raise RequirementError(message)
        if step == 0 and self.force_predict_first_step:
            return super().stops(length_logits, streams, step)
        probs = (length_logits.double() / self.stopping_temperature).softmax(dim=1)[:, 0]
        if self.stopping_threshold is not None:
            return probs >= self.stopping_threshold
        index = torch.zeros_like(streams.rows)
        return streams.uniforms(index, step=step, stream=STOP_STREAM) < probs


class ILMPredictorWithLengthClassification(ILMPredictorWithStoppingClassification):
    """The same for a network that says how many tokens are missing.

    It can insert several at once. Its constructor is that of
    `ILMPredictorWithStoppingClassification`, and further

    Args:
        max_insertions: At how many slots of a row a token is inserted in one step.
        insertion_threshold: As many are, surest first, as keep the sum of doubts below it, and at
            least one. That bounds the chance that any of them is wrong.
    """

    def __init__(
        self,
        max_steps: int,
        max_length: int | None = None,
        tokenizer: Any = None,
        *,
        stopping_threshold: float | None = 0.5,
        max_insertions: int = 1,
        insertion_threshold: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(
            max_steps, max_length, tokenizer, stopping_threshold=stopping_threshold, **settings
        )
        self.policy = dataclasses.replace(
            self.policy, max_insertions=max_insertions, insertion_threshold=insertion_threshold
        )

    def count_missing(
        self, length_logits: Float[Tensor, "batch n_classes"] | None
    ) -> Float[Tensor, " batch"] | None:
        """Return how many tokens the network expects to be missing, where any are.

        Raises:
            RequirementError: The network says only whether any are, and several are to be inserted
                at once.
        """
        if length_logits is None or self.policy.max_insertions == 1:
            return None
        if length_logits.shape[1] < 3:
            message = (
                f"{type(self.model).__name__} does not say how many tokens are missing, without "
                "which several cannot be inserted at once; set max_insertions=1, or give a model "
                "that counts them"
            )
            raise RequirementError(message)
        numbers = torch.arange(1, length_logits.shape[1], device=length_logits.device)
        return (length_logits[:, 1:].float().softmax(dim=1) * numbers).sum(dim=1)


def _align(
    batch: ILMPredictionBatch, growing: Growing
) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"], int]:
    """Return the texts so that all prompts end in one column, as in a batch padded on the left.

    Returns:
        Token ids, their positions, where they are no padding, and the column after the prompts.
    """
    everyone = torch.arange(len(growing.lengths), device=growing.lengths.device)
    ids, _, _ = growing.read(everyone)
    bos = (batch["token_type_ids"] == SUFFIX_TYPE).long().argmax(dim=1, keepdim=True)
    n_before = batch["attention_mask"].long().cumsum(dim=1).gather(1, bos)
    lengths, start = growing.lengths[:, None], int(bos.max()) + 1
    width = start + int((lengths - n_before).max())
    places = torch.arange(width, device=ids.device) - (start - n_before)
    is_token = (places >= 0) & (places < lengths)
    places = places.clamp(min=0, max=ids.shape[1] - 1)
    return ids.gather(1, places), places, is_token, start
