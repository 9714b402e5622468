"""The sampler of the family: masks after a prompt, filled step by step."""

from typing import Any

from pellucid.xlm.sampling import FillingPredictor, FillOrder, TokenPolicy
from pellucid.xlm.starter.model_starter import StarterModel
from pellucid.xlm.starter.types_starter import StarterPredictionBatch, StarterPredictionDict


class StarterPredictor(FillingPredictor[StarterPredictionBatch, StarterPredictionDict]):
    """Put masks after each prompt, and fill some of them in each step, the surest first.

    The loop is that of `FillingPredictor`: override `reader` if the network is to be told more, or
    `predict` for a loop of your own.

    Args:
        max_new_tokens: How many masks to put after a prompt.
        max_steps: The most network evaluations of a row.
        tokenizer: Filled in by the harness if None.
        model: The network; filled in by the harness if None.
        noise_schedule: Not read.
        confidence: What makes a mask sure: see `FillOrder`; None for random order.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
    """

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
        super().__init__(
            max_steps, max_new_tokens, tokenizer, model=model, noise_schedule=noise_schedule
        )
        self.order = FillOrder(confidence=confidence)
        self.tokens = TokenPolicy(temperature=temperature)
