"""The objective of the family: a bound on the likelihood."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.mdlm._noising import mask_a_number
from pellucid.families.mdlm._subs import forbid_mask
from pellucid.families.mdlm.types_mdlm import MDLMBatch, MDLMLossDict, MDLMNetwork
from pellucid.xlm.contracts import IGNORED, LossFunction, NLLBound
from pellucid.xlm.modules import evaluating, sum_rows

WEIGHTINGS = ("bound", "even")


class MDLMLoss(LossFunction[MDLMBatch, MDLMLossDict]):
    """Weighted cross-entropy of masked tokens, an estimate of the bound on the likelihood.

    Args:
        loss_on_padding: Ask about padding too, where the collator masks it; so the length of a text
            is learnt.
        loss_on_visible_tokens: Add the cross-entropy of tokens that could have been masked and were
            not. They cost nothing in the bound, since they are carried over, so with it the loss is
            no bound.
        model: The network; filled in by the harness if None.
        tokenizer: Whose mask and padding are meant; filled in by the harness if None.
        weighting: "bound" weighs the masks of each row as the batch says and divides by all tokens
            that could be masked: its mean over batches is the bound per token. "even" weighs every
            mask the same and divides by their number: it varies less, has the same optimum, and is
            no bound.
        n_bound_samples: How many maskings of each row `nll_bound` averages over.

    Raises:
        UnknownNameError: There is no such weighting.
        ArgumentError: No masking is to be averaged over.
    """

    def __init__(
        self,
        loss_on_padding: bool = True,
        loss_on_visible_tokens: bool = False,
        model: MDLMNetwork | None = None,
        *,
        tokenizer: Any = None,
        weighting: str = "bound",
        n_bound_samples: int = 8,
    ) -> None:
        if weighting not in WEIGHTINGS:
            raise UnknownNameError("weighting", weighting, WEIGHTINGS)
        if n_bound_samples < 1:
            message = f"n_bound_samples is {n_bound_samples!r}; average over at least one"
            raise ArgumentError(message)
        self.model, self.tokenizer = model, tokenizer
        self.loss_on_padding = loss_on_padding
        self.loss_on_visible_tokens = loss_on_visible_tokens
        self.weighting, self.n_bound_samples = weighting, n_bound_samples

    def loss_fn(
        self,
        batch: MDLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MDLMLossDict:
        """Compute the loss of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        ids, is_eligible = batch["input_ids"], self._eligible(batch)
        is_masked = is_eligible & (ids == self.tokenizer.mask_token_id)
        is_asked = is_eligible if self.loss_on_visible_tokens else is_masked
        targets = batch["target_ids"][is_asked]
        nats = self._cross_entropy(batch, ids, batch["total_noise"], is_asked, targets)
        if self.weighting == "even":
            tokens = is_asked.sum(dim=1)
        else:
            tokens = is_eligible.sum(dim=1)
            weights = torch.where(is_masked, batch["weight"][:, None], 1.0)
            nats = nats * weights[is_asked]
        # With nothing asked there is no loss, and still a graph to differentiate.
        return {"loss": nats.sum() / tokens.sum().clamp(min=1), "tokens": tokens}

    def nll_bound(self, batch: MDLMBatch) -> NLLBound:
        """Bound the negative log-likelihood of what could be masked, given all the rest.

        This is the bound in continuous time, in the limit of a schedule under which all tokens are
        masked at time 1. It does not depend on the schedule, nor on the masks of the batch: the
        number of masks is stratified over `n_bound_samples` maskings of each row (see
        `mask_a_number`). The bound is about texts, so padding is not counted among its tokens.
        """
        is_eligible, targets = self._eligible(batch), batch["target_ids"]
        clean = torch.where(targets != IGNORED, targets, batch["input_ids"])
        generator = self.generator or torch.Generator(targets.device).manual_seed(0)
        total = torch.zeros(len(targets), device=targets.device, dtype=torch.float64)
        with evaluating(self.model):
            for sample in range(self.n_bound_samples):
                noise = mask_a_number(
                    is_eligible, generator=generator, stratum=(sample, self.n_bound_samples)
                )
                where = noise.is_masked
                noised = clean.masked_fill(where, self.tokenizer.mask_token_id)
                nats = self._cross_entropy(batch, noised, noise.total_noise, where, clean[where])
                total += noise.weight * sum_rows(nats.double(), where)
        is_text = is_eligible & (targets != self.tokenizer.pad_token_id)
        return NLLBound((total / self.n_bound_samples).float(), is_text.sum(dim=1))

    def _eligible(self, batch: MDLMBatch) -> Bool[Tensor, "batch pos"]:
        targets = batch["target_ids"]
        is_eligible = targets != IGNORED
        if self.loss_on_padding:
            return is_eligible
        return is_eligible & (targets != self.tokenizer.pad_token_id)

    def _cross_entropy(
        self,
        batch: MDLMBatch,
        ids: Int64[Tensor, "batch pos"],
        total_noise: Float[Tensor, " batch"],
        where: Bool[Tensor, "batch pos"],
        targets: Int64[Tensor, " picked_pos"],
    ) -> Float[Tensor, " picked_pos"]:
        shown, positions = batch["attention_mask"], batch.get("positions")
        logits = self.model(ids, total_noise, shown, positions, where=where)
        allowed = forbid_mask(logits, self.tokenizer.mask_token_id)
        return functional.cross_entropy(allowed, targets, reduction="none")
