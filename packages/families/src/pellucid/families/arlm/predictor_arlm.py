"""The sampler of the family: one token after the other."""

import dataclasses
import time
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.families.arlm.types_arlm import (
    ARLMModel,
    ARLMPredictionBatch,
    ARLMPredictionDict,
)
from pellucid.xlm.modules import KeyValueCache, TokenConstraints, evaluating, positions_of
from pellucid.xlm.sampling import PromptedPredictor, RowStreams, TokenPolicy

Logits = Float[Tensor, "batch d_vocab"]


class ARLMPredictor(PromptedPredictor[ARLMPredictionBatch, ARLMPredictionDict]):
    """Write from left to right until every row has ended.

    Keys and values of what was read are kept, and rows that have ended leave the batch: a token
    costs the work of one token. No special token but EOS is ever written. What a row draws depends
    on no other row; see `pellucid.xlm.sampling.RowStreams`.

    Args:
        max_steps: The most tokens to write; as many as `max_length` allows if None.
        max_length: The most tokens of a row, prompt included; padding does not count.
        tokenizer: Filled in by the harness if None.
        noise_schedule: Not read.
        sampling_method: "sample", "sample_top_k" or "sample_top_p".
        top: The k of top-k; 1 always takes the best token.
        p: The p of top-p.
        model: The network; filled in by the harness if None.
        temperature: Divides logits; 0 always takes the best token.
        use_cache: Keep keys and values; otherwise everything is read again for each token.
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere.

    Raises:
        ArgumentError: A number is out of its range, or nothing says how long a text may get.
        UnknownNameError: The sampling method is unknown.
    """

    record_columns: ClassVar[tuple[str, ...]] = (
        "text",
        "text_with_spl_tokens",
        "time_taken",
        "steps_taken",
    )

    def __init__(
        self,
        max_steps: int | None = None,
        max_length: int | None = None,
        tokenizer: Any = None,
        *,
        noise_schedule: Any = None,
        sampling_method: str = "sample",
        top: int = 1000,
        p: float = 0.9,
        model: ARLMModel | None = None,
        temperature: float = 1.0,
        use_cache: bool = True,
        add_bos: str | None = None,
    ) -> None:
        if max_steps is None and max_length is None:
            message = "max_steps and max_length are both None; say how long a text may get"
            raise ArgumentError(message)
        for name, number in (("max_steps", max_steps), ("max_length", max_length)):
            if number is not None and number < 1:
                raise ArgumentError(f"{name} is {number!r}; give a positive number")
        self.max_steps, self.max_length = max_steps, max_length
        self.tokenizer, self.noise_schedule, self.model = tokenizer, noise_schedule, model
        self.use_cache, self.add_bos = use_cache, add_bos
        self.tokens = TokenPolicy.of_method(sampling_method, top=top, p=p, temperature=temperature)

    def predict(
        self,
        batch: ARLMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ARLMPredictionDict:
        """Complete every prompt of a batch.

        Raises:
            ArgumentError: Prompts leave no room for a single token.
        """
        del batch_idx, dataloader_idx, dataloader_name
        with evaluating(self.model):
            writing = self._begin(batch)
            while len(writing.active):
                self._write_token(writing)
        return self._describe(writing)

    def _begin(self, batch: ARLMPredictionBatch) -> "_Writing":
        prompts, mask = batch["input_ids"], batch["attention_mask"].bool()
        n_rows, start = prompts.shape
        if not bool(mask.any(dim=1).all()):
            message = "a prompt is empty, so there is nothing to begin with; add BOS (add_bos)"
            raise ArgumentError(message)
        rooms = self._rooms(mask.sum(dim=1))
        room = int(rooms.max())
        padding = prompts.new_full((n_rows, room), self.tokenizer.pad_token_id)
        has_cache = self.use_cache and hasattr(self.model, "new_cache")
        return _Writing(
            ids=torch.cat((prompts, padding), dim=1),
            mask=torch.cat((mask, mask.new_zeros(n_rows, room)), dim=1),
            start=start,
            end=start,
            rooms=rooms,
            active=torch.arange(n_rows, device=prompts.device),
            constraints=TokenConstraints.from_tokenizer(self.tokenizer, allowed=("eos",)),
            streams=RowStreams.of(batch, self.generator),
            cache=self.model.new_cache(n_rows, start + room) if has_cache else None,
            steps=[0] * n_rows,
            seconds=[0.0] * n_rows,
        )

    def _rooms(self, lengths: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Return how many tokens each row may write, whatever padding stands before it."""
        limits = [
            torch.full_like(lengths, self.max_steps) if self.max_steps is not None else None,
            self.max_length - lengths if self.max_length is not None else None,
        ]
        rooms = torch.stack([limit for limit in limits if limit is not None]).amin(dim=0)
        if bool((rooms < 1).any()):
            message = (
                f"a prompt takes {int(lengths.max())} of at most {self.max_length} tokens and "
                "leaves no room to write; raise max_length, or shorten prompts (input_block_size)"
            )
            raise ArgumentError(message)
        return rooms

    def _write_token(self, writing: "_Writing") -> None:
        """Write the next token of every row that goes on, and take out those that end with it."""
        logits = writing.constraints.restrict(self._next_logits(writing))
        tokens = self.tokens.draw(logits, writing.uniforms())
        writing.append(tokens, is_end=tokens == self.tokenizer.eos_token_id)

    def _next_logits(self, writing: "_Writing") -> Logits:
        active, end = writing.active, writing.end
        mask = writing.mask[active, :end]
        if writing.cache is None:
            where = torch.zeros_like(mask)
            where[:, -1] = True
            return self.model(writing.ids[active, :end], mask, where=where).float()
        begin = writing.cache.length
        where = torch.zeros_like(mask[:, begin:])
        where[:, -1] = True
        positions = positions_of(mask)[:, begin:]
        return self.model(
            writing.ids[active, begin:end], mask, positions, where=where, cache=writing.cache
        ).float()

    def _describe(self, writing: "_Writing") -> ARLMPredictionDict:
        written = writing.ids[:, writing.start :].tolist()
        lengths = writing.mask[:, writing.start :].sum(dim=1).tolist()
        kept = [row[:length] for row, length in zip(written, lengths, strict=True)]
        return {
            "text": [self.tokenizer.decode(row, skip_special_tokens=True) for row in kept],
            "text_with_spl_tokens": [self.tokenizer.decode(row) for row in kept],
            "ids": writing.ids,
            "attention_mask": writing.mask,
            "positions": positions_of(writing.mask),
            "output_start_idx": writing.start,
            "time_taken": writing.seconds,
            "steps_taken": writing.steps,
        }


@dataclasses.dataclass
class _Writing:
    """Texts that are being written.

    Attributes:
        ids: Prompts and what was written, padding after it.
        mask: False on padding.
        start: The column in which writing began.
        end: The column in which the next token goes.
        rooms: How many tokens each row may get.
        active: The rows that have not ended, ascending.
        constraints: What may be written.
        streams: The random numbers of all rows.
        cache: What is kept of the active rows.
        steps: Network evaluations of each row.
        seconds: Time until each row ended.
    """

    ids: Int64[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    start: int
    end: int
    rooms: Int64[Tensor, " batch"]
    active: Int64[Tensor, " kept"]
    constraints: TokenConstraints
    streams: RowStreams
    cache: KeyValueCache | None
    steps: list[int]
    seconds: list[float]
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def uniforms(self) -> Float64[Tensor, " kept"]:
        """Return a number from [0, 1) for the next token of each active row, by its position."""
        return self.streams.keep(self.active).uniforms(self.mask[self.active].sum(dim=1))

    def append(self, tokens: Int64[Tensor, " kept"], *, is_end: Bool[Tensor, " kept"]) -> None:
        """Write a token in every active row; those that end or are full are active no longer."""
        column = self.ids[self.active, self.end : self.end + 1]
        everywhere = torch.ones_like(column, dtype=torch.bool)
        written = self.constraints.write(column, tokens[:, None], everywhere)
        self.ids[self.active, self.end : self.end + 1] = written
        self.mask[self.active, self.end] = True
        self.end += 1
        seconds = time.perf_counter() - self.began
        for row in self.active.tolist():
            self.steps[row] += 1
            self.seconds[row] = seconds
        goes_on = ~is_end & (self.end - self.start < self.rooms[self.active])
        if not bool(goes_on.all()):
            self.active = self.active[goes_on]
            if self.cache is not None:
                self.cache.keep_rows(goes_on)
