"""The sampler of the family: masks are filled in any order, several at a time."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.families.mlm.types_mlm import MLMModel, MLMPredictionBatch, MLMPredictionDict
from pellucid.xlm.sampling import (
    DOUBTS,
    DoubtLimit,
    EvenShare,
    FillingPredictor,
    FillOrder,
    Remasking,
    TokenPolicy,
)


class MLMPredictor(FillingPredictor[MLMPredictionBatch, MLMPredictionDict]):
    """Fill masks step by step: read the text, draw a token for every mask, keep the surest.

    A step reads the rows that have masks left, and no others; every step fills at least one mask of
    each of them, and the last one all that are left, so that no row is read more often than
    `max_steps`. What was given never changes, and of special tokens only EOS and padding are
    written. What a row draws depends on no other row; see `pellucid.xlm.sampling.RowStreams`.

    Args:
        max_steps: The most network evaluations of a row.
        max_new_tokens: How many masks to put after a prompt; None to fill those that are there.
        tokenizer: Filled in by the harness if None.
        model: The network; filled in by the harness if None.
        noise_schedule: Not read.
        top_k: Draw from the k best tokens.
        top_p: Draw from the fewest tokens that together have probability p; not with `top_k`.
        confidence: Fill first where the best token has the highest probability ("top_prob"), or the
            largest margin ("prob_diff"), or where the entropy is lowest ("entropy"); in random
            order if None.
        threshold: Fill as many of the surest masks as keep the sum of their doubts below it, at
            least one; if None, masks are shared out evenly over the steps.
        threshold_rule: "error" sums the doubts of all masks filled at once, "dependence" all but
            the largest; see `pellucid.xlm.sampling.DoubtLimit`.
        confidence_temperature: Divides logits before confidences are read from them.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
        block_length: Fill blocks of that many positions from left to right, each in any order.
        remasking: Which tokens are masked again after a step; none if None.
        logits_hook: Called with the logits of whole rows, for networks that answer elsewhere.
        skip_special_tokens: Leave special tokens out of texts.
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere;
            texts whose masks are filled get none.

    Raises:
        ArgumentError: Settings contradict each other or are out of their range.
        UnknownNameError: The confidence or the rule of the threshold is unknown.
    """

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int | None = None,
        tokenizer: Any = None,
        *,
        model: MLMModel | None = None,
        noise_schedule: Any = None,
        top_k: int | None = None,
        top_p: float | None = None,
        confidence: str | None = None,
        threshold: float | None = None,
        threshold_rule: str = "error",
        confidence_temperature: float = 1.0,
        temperature: float = 1.0,
        block_length: int | None = None,
        remasking: Remasking | None = None,
        logits_hook: Callable[[Tensor], Tensor] | None = None,
        skip_special_tokens: bool = True,
        add_bos: str | None = "output",
    ) -> None:
        if threshold is not None and confidence is None:
            message = f"threshold={threshold!r} needs a confidence; choose {sorted(DOUBTS)!r}"
            raise ArgumentError(message)
        super().__init__(
            max_steps,
            max_new_tokens,
            tokenizer,
            model=model,
            noise_schedule=noise_schedule,
            skip_special_tokens=skip_special_tokens,
            add_bos=add_bos,
        )
        self.order = FillOrder(
            confidence=confidence,
            counts=EvenShare() if threshold is None else DoubtLimit(threshold, threshold_rule),
            block_length=block_length,
            temperature=confidence_temperature,
        )
        self.tokens = TokenPolicy(temperature=temperature, top_k=top_k, top_p=top_p)
        self.remasking, self.logits_hook = remasking, logits_hook
