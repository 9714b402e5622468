"""The objective of the family: the exact likelihood, token by token."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.families.arlm.types_arlm import (
    PROMPT_TYPE,
    ARLMBatch,
    ARLMLossDict,
    ARLMModel,
)
from pellucid.xlm.contracts import IGNORED, LossFunction, NLLBound
from pellucid.xlm.modules import sum_rows


class ARLMLoss(LossFunction[ARLMBatch, ARLMLossDict]):
    """Cross-entropy of the next token, averaged over the tokens asked about.

    Args:
        model: The network; filled in by the harness if None.
        tokenizer: Filled in by the harness if None.
        loss_on_prompt: Ask about the tokens of prompts too, the first of each excepted.
    """

    def __init__(
        self,
        model: ARLMModel | None = None,
        tokenizer: Any = None,
        *,
        loss_on_prompt: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.loss_on_prompt = loss_on_prompt

    def loss_fn(
        self,
        batch: ARLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ARLMLossDict:
        """Compute the loss of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        nats, is_asked = self._nats(batch)
        # A batch about which nothing is asked has no loss, and still a graph to differentiate.
        loss = nats.sum() / is_asked.sum().clamp(min=1)
        return {
            "loss": loss,
            "nats": sum_rows(nats.detach(), is_asked),
            "tokens": is_asked.sum(dim=1),
        }

    @torch.no_grad()
    def nll_bound(self, batch: ARLMBatch) -> NLLBound:
        """Return the negative log-likelihood of each row, which is exact."""
        nats, is_asked = self._nats(batch)
        return NLLBound(sum_rows(nats, is_asked), is_asked.sum(dim=1))

    def _nats(
        self, batch: ARLMBatch
    ) -> tuple[Float[Tensor, " picked_pos"], Bool[Tensor, "batch pos"]]:
        """Return the cross-entropy of every token asked about, and where these are."""
        targets = batch["target_ids"]
        is_asked = targets != IGNORED
        types = batch.get("token_type_ids")
        if types is not None and not self.loss_on_prompt:
            is_asked = is_asked & (_following(types) != PROMPT_TYPE)
        mask = batch["attention_mask"]
        logits = self.model(
            batch["input_ids"], None if _starts_everywhere(mask) else mask, where=is_asked
        )
        nats = functional.cross_entropy(logits.float(), targets[is_asked], reduction="none")
        return nats, is_asked


def _following(types: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
    """Return the type of the token after each one; that of the last token is not asked for."""
    return torch.cat((types[:, 1:], types[:, -1:]), dim=1)


def _starts_everywhere(mask: Bool[Tensor, "batch pos"]) -> bool:
    """Say whether there is padding on the right alone, which no token sees anyway.

    Attention then needs no mask. A GPU is not asked, since that would wait for it.
    """
    return mask.device.type == "cpu" and bool(mask[:, 0].all())
