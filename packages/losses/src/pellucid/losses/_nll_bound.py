"""A loss over how likely a text is to a model of texts."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ArgumentError, LossReads, Messages, boundary
from pellucid.losses._text import TextBasedLoss, flatten_text

_OWN = frozenset({"text_nll_bounds", "text_token_counts"})


@dataclasses.dataclass(kw_only=True)
class NLLBoundLoss(TextBasedLoss):
    """How unlikely a text is at most: a bound on its negative log-likelihood, in nats.

    For families that write in any order there is no more than a bound. Given a scorer, it is a loss
    on the inputs of any other model, beside a loss on what that model does with them.

    Args:
        per_token: Whether to divide by the number of tokens.
        scorer: A model whose outputs hold the bounds of texts, such as `pellucid.xlm.TextScorer`;
            the model that is optimised against when omitted.
    """

    per_token: bool = True
    scorer: Any = dataclasses.field(default=None, repr=False, compare=False)

    def reads(self) -> LossReads:
        """Say what the loss reads: bounds, or with a scorer the texts."""
        return LossReads(required=_OWN if self.scorer is None else frozenset({"input_texts"}))

    @boundary
    def __call__(
        self,
        text_nll_bounds: Float[Tensor, " batch"] | None = None,
        text_token_counts: Int[Tensor, " batch"] | None = None,
        input_texts: list[str] | list[Messages] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            text_nll_bounds: The bounds, without a scorer.
            text_token_counts: How many tokens they are about.
            input_texts: The texts, for a scorer; of conversations, the messages' contents.

        Returns:
            Float32, of shape (batch,).

        Raises:
            ArgumentError: (a ValueError) If the scorer gives no bounds.
        """
        if self.scorer is not None:
            output = self.scorer.invoke_from_texts(
                [flatten_text(text) for text in input_texts or []]
            )
            text_nll_bounds = output.text_nll_bounds
            text_token_counts = output.text_token_counts
        if text_nll_bounds is None or text_token_counts is None:
            raise ArgumentError(
                f"{self.scorer!r} gives no text_nll_bounds. Use a scorer such as "
                "pellucid.xlm.TextScorer."
            )
        nats = text_nll_bounds.to(torch.float32)
        return nats / text_token_counts.clamp(min=1) if self.per_token else nats
