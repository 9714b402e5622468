"""The objective of the family: the tokens under masks that are drawn anew for each batch."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.xlm.contracts import IGNORED, LossFunction, NLLBound
from pellucid.xlm.modules import TokenConstraints, evaluating, select_random_indices, sum_rows
from pellucid.xlm.starter.model_starter import StarterModel
from pellucid.xlm.starter.types_starter import StarterBatch, StarterLossDict


class StarterLoss(LossFunction[StarterBatch, StarterLossDict]):
    """Cross-entropy of masked tokens, averaged over them.

    Args:
        model: The network; filled in by the harness if None.
        tokenizer: Whose mask is meant; filled in by the harness if None.
        n_bound_samples: How many maskings of each row `nll_bound` averages over.
    """

    def __init__(
        self,
        model: StarterModel | None = None,
        tokenizer: Any = None,
        *,
        n_bound_samples: int = 8,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.n_bound_samples = n_bound_samples

    def loss_fn(
        self,
        batch: StarterBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> StarterLossDict:
        """Compute the loss of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        masked = self._draw_masks(batch)
        n_masked = masked.sum(dim=1)
        nats = self._row_nats(batch, masked)
        return {"loss": nats.sum() / n_masked.sum().clamp(min=1), "tokens": n_masked}

    def nll_bound(self, batch: StarterBatch) -> NLLBound:
        """Bound the negative log-likelihood of what may be masked, given all the rest.

        To fill masks one by one, in an order drawn at random, is an autoregressive model of that
        order; the mean of its code length over orders bounds the likelihood (Uria et al. 2014,
        arXiv:1310.1757). With k of n tokens masked it is n / k times their cross-entropy, on
        average over k from 1 to n.
        """
        n_tokens = (batch["target_ids"] != IGNORED).sum(dim=1)
        nats = torch.zeros(len(n_tokens), device=n_tokens.device)
        with evaluating(self.model):
            for _ in range(self.n_bound_samples):
                masked = self._draw_masks(batch)
                scale = n_tokens / masked.sum(dim=1).clamp(min=1)
                nats = nats + scale * self._row_nats(batch, masked) / self.n_bound_samples
        is_text = batch["target_ids"] != self.tokenizer.pad_token_id
        return NLLBound(nats, (is_text & (batch["target_ids"] != IGNORED)).sum(dim=1))

    def _draw_masks(self, batch: StarterBatch) -> Bool[Tensor, "batch pos"]:
        """Mask 1 to n of the n tokens of a row that may be masked, every number as likely."""
        may_be_masked = batch["target_ids"] != IGNORED
        n_tokens = may_be_masked.sum(dim=1)
        # The harness seeds the generator for each batch, so that a run can go on exactly.
        share = torch.rand(len(n_tokens), generator=self.generator, device=n_tokens.device)
        counts = (share * n_tokens).long() + 1
        return select_random_indices(may_be_masked, counts, generator=self.generator)

    def _row_nats(
        self, batch: StarterBatch, masked: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, " batch"]:
        """Return the cross-entropy of the masked tokens of each row, in sum."""
        ids: Int64[Tensor, "batch pos"] = batch["input_ids"]
        noised = ids.masked_fill(masked, self.tokenizer.mask_token_id)
        logits = self.model(noised, batch["attention_mask"], where=masked)
        # No mask stands in a text, so that it has probability zero.
        logits = TokenConstraints((self.tokenizer.mask_token_id,)).restrict(logits.float())
        return sum_rows(functional.cross_entropy(logits, ids[masked], reduction="none"), masked)
