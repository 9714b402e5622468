"""The sampler of the family: masks after a prompt, filled step by step."""

from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from pellucid.xlm.modules import TokenConstraints, evaluating
from pellucid.xlm.sampling import (
    FillOrder,
    PromptedPredictor,
    Reading,
    RowStreams,
    Texts,
    TokenPolicy,
    fill,
)
from pellucid.xlm.starter.model_starter import StarterModel
from pellucid.xlm.starter.types_starter import StarterPredictionBatch, StarterPredictionDict


class StarterPredictor(PromptedPredictor[StarterPredictionBatch, StarterPredictionDict]):
    """Put masks after each prompt, and fill some of them in each step, the surest first.

    `fill` keeps what was given as it is, and of special tokens only EOS and padding are written.

    Args:
        max_new_tokens: How many masks to put after a prompt.
        max_steps: The most network evaluations of a row.
        tokenizer: Filled in by the harness if None.
        model: The network; filled in by the harness if None.
        noise_schedule: Not read.
        confidence: What makes a mask sure: see `FillOrder`; None for random order.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
    """

    add_bos = "output"

    def __init__(
        self,
        max_new_tokens: int,
        max_steps: int,
        tokenizer: Any = None,
        *,
        model: StarterModel | None = None,
        noise_schedule: Any = None,
        confidence: str | None = "top_prob",
        temperature: float = 0.0,
    ) -> None:
        self.max_new_tokens, self.max_steps = max_new_tokens, max_steps
        self.tokenizer, self.model, self.noise_schedule = tokenizer, model, noise_schedule
        self.order = FillOrder(confidence=confidence)
        self.tokens = TokenPolicy(temperature=temperature)

    def predict(
        self,
        batch: StarterPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> StarterPredictionDict:
        """Complete every prompt of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        texts = Texts.of(batch, tokenizer=self.tokenizer, max_new_tokens=self.max_new_tokens)
        with evaluating(self.model):
            filled = fill(
                texts,
                self._read,
                order=self.order,
                tokens=self.tokens,
                constraints=TokenConstraints.from_tokenizer(self.tokenizer, allowed=("eos", "pad")),
                streams=RowStreams.of(batch, self.generator),
                max_steps=self.max_steps,
            )
        return cast("StarterPredictionDict", self.describe(filled, start=texts.start))

    def _read(self, reading: Reading) -> Float[Tensor, "picked_pos d_vocab"]:
        return self.model(reading.ids, reading.shown, reading.positions, where=reading.where)
