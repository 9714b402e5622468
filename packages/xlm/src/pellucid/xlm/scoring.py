"""A trained family as a model that tells how likely texts are, for optimizers and for losses.

The score is the family's own bound on the likelihood (`LossFunction.nll_bound`), so that families
which write in any order can be asked as well as autoregressive ones. See `docs/compositions`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.core import BaseModel, Flow, LossTextAccessMixin, ModelOutput
from pellucid.xlm.contracts import Collator, LossFunction

_FIELDS = {"text_nll_bounds": (), "text_token_counts": ()}


class TextScorer(BaseModel, LossTextAccessMixin):
    """Bounds the negative log-likelihood of texts by a family's loss, without gradients.

    Every text is a batch of its own and gets the same noise: a score depends on the text alone, and
    differences of scores are less noisy than scores.

    Args:
        loss: The family's loss, with its network and tokenizer.
        collator: What makes the loss's batches of examples, `DefaultMLMCollator` say.
        encode: Takes a text, returns token ids; that of the loss's tokenizer when omitted.
        seed: Of the noise.
    """

    provides = {Flow.TEXTS: _FIELDS}  # noqa: RUF012 - never changed

    def __init__(
        self,
        loss: LossFunction[Any, Any],
        collator: Collator,
        *,
        encode: Callable[[str], Sequence[int]] | None = None,
        seed: int = 0,
    ) -> None:
        self._loss, self._collator = loss, collator
        self._encode = encode if encode is not None else loss.tokenizer.encode
        self._seed = seed
        self._model: Any = loss.model

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self._model.parameters()).device

    def __call__(self, input_texts: Sequence[str], **kwargs: Any) -> Tensor:
        """Return the bounds of texts, in nats, of shape (batch,)."""
        bounds = self.invoke_from_texts(input_texts, **kwargs).text_nll_bounds
        return torch.zeros(0) if bounds is None else bounds

    def invoke_from_texts(self, input_texts: Sequence[str]) -> ModelOutput:
        """Score texts.

        Args:
            input_texts: Each is encoded, and put into a batch by the collator.

        Raises:
            RequirementError: The family bounds no likelihood.
        """
        with torch.no_grad():
            scored = [self._score(text) for text in input_texts]
        bounds = torch.cat([each[0] for each in scored] or [torch.zeros(0)])
        counts = torch.cat([each[1] for each in scored] or [torch.zeros(0, dtype=torch.long)])
        return ModelOutput(text_nll_bounds=bounds, text_token_counts=counts)

    def _score(self, text: str) -> tuple[Tensor, Tensor]:
        ids = list(self._encode(text))
        self._collator.generator = torch.Generator().manual_seed(self._seed)
        made = self._collator([{"input_ids": ids}])
        batch = {
            name: held.to(self.device) if isinstance(held, Tensor) else held
            for name, held in made.items()
        }
        before = self._loss.generator
        try:
            self._loss.generator = torch.Generator(self.device).manual_seed(self._seed)
            bound = self._loss.nll_bound(batch)
        finally:
            self._loss.generator = before
        self._update_invoke_stats(n_tokens=len(ids), n_samples=1)
        return bound.nats.float(), bound.tokens


__all__ = ["TextScorer"]
