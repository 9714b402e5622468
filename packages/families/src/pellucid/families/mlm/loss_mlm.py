"""The objective of the family: the tokens under the masks."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.families.mlm.types_mlm import MLMBatch, MLMLossDict, MLMModel
from pellucid.xlm.contracts import IGNORED, LossFunction, NLLBound
from pellucid.xlm.modules import (
    TokenConstraints,
    evaluating,
    positions_of,
    select_best,
    sum_rows,
)
from pellucid.xlm.sampling import RowStreams, Stream


class MLMLoss(LossFunction[MLMBatch, MLMLossDict]):
    """Cross-entropy of masked tokens, averaged over them.

    Args:
        loss_on_padding: Ask about padding too, where the collator masks it; so the length of a text
            is learnt.
        loss_on_visible_tokens: Ask about tokens that could have been masked and were not, too.
        model: The network; filled in by the harness if None.
        tokenizer: Whose mask and padding are meant; filled in by the harness if None.
        use_num_masked_factor: Give every row the same weight, however many masks it has; the
            average is then a bound on the likelihood per token, as for `nll_bound`.
        n_bound_samples: How many maskings of each row `nll_bound` averages over.
    """

    def __init__(
        self,
        loss_on_padding: bool = True,
        loss_on_visible_tokens: bool = False,
        model: MLMModel | None = None,
        *,
        tokenizer: Any = None,
        use_num_masked_factor: bool = False,
        n_bound_samples: int = 8,
    ) -> None:
        if n_bound_samples < 1:
            message = f"n_bound_samples is {n_bound_samples!r}; average over at least one"
            raise ArgumentError(message)
        self.model, self.tokenizer = model, tokenizer
        self.loss_on_padding = loss_on_padding
        self.loss_on_visible_tokens = loss_on_visible_tokens
        self.use_num_masked_factor = use_num_masked_factor
        self.n_bound_samples = n_bound_samples

    def loss_fn(
        self,
        batch: MLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MLMLossDict:
        """Compute the loss of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        ids, targets = batch["input_ids"], batch["target_ids"]
        is_asked = targets != IGNORED
        if not self.loss_on_visible_tokens:
            is_asked = is_asked & (ids == self.tokenizer.mask_token_id)
        if not self.loss_on_padding:
            is_asked = is_asked & (targets != self.tokenizer.pad_token_id)
        nats = _cross_entropy(self._logits(batch, ids, is_asked), targets[is_asked])
        n_tokens = is_asked.sum(dim=1)
        if self.use_num_masked_factor:
            nats = nats / n_tokens[is_asked.nonzero()[:, 0]]
            loss = nats.sum() / (n_tokens > 0).sum().clamp(min=1)
        else:
            # With nothing asked there is no loss, and still a graph to differentiate.
            loss = nats.sum() / n_tokens.sum().clamp(min=1)
        return {"loss": loss, "tokens": n_tokens}

    def nll_bound(self, batch: MLMBatch) -> NLLBound:
        """Bound the negative log-likelihood of what could be masked, given all the rest.

        To fill masks one by one, in an order drawn at random, is an autoregressive model of that
        order; the mean of its code length over orders bounds the likelihood (Uria et al. 2014,
        arXiv:1310.1757). With k of n tokens masked it is n / k times their cross-entropy, on
        average over k from 1 to n. Here k is stratified over the samples, what is masked follows
        from the row's number and not from its batch, and the mask itself has probability zero. The
        bound is about texts, so padding is not counted among its tokens.
        """
        targets = batch["target_ids"]
        is_eligible = targets != IGNORED
        clean = torch.where(is_eligible, targets, batch["input_ids"])
        n_eligible = is_eligible.sum(dim=1)
        streams = RowStreams.of(batch, self.generator)
        places = positions_of(batch["attention_mask"]).long()
        no_place = torch.zeros_like(places[:, 0])
        nats = torch.zeros(len(targets), device=targets.device, dtype=torch.float64)
        with evaluating(self.model):
            for sample in range(self.n_bound_samples):
                uniforms = streams.uniforms(no_place, step=sample, stream=Stream.COUNT)
                share = (sample + uniforms) / self.n_bound_samples
                counts = (share * n_eligible).long().clamp(max=n_eligible - 1) + 1
                scores = streams.uniforms(places, step=sample, stream=Stream.ORDER)
                chosen = select_best(scores, is_eligible, counts)
                noised = clean.masked_fill(chosen, self.tokenizer.mask_token_id)
                scale = n_eligible / counts.clamp(min=1)
                nats += scale * self._row_nats(batch, noised, clean, chosen)
        is_text = is_eligible & (targets != self.tokenizer.pad_token_id)
        return NLLBound((nats / self.n_bound_samples).float(), is_text.sum(dim=1))

    def _row_nats(
        self,
        batch: MLMBatch,
        noised: Int64[Tensor, "batch pos"],
        clean: Int64[Tensor, "batch pos"],
        where: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, " batch"]:
        never = TokenConstraints((self.tokenizer.mask_token_id,))
        logits = never.restrict(self._logits(batch, noised, where))
        return sum_rows(_cross_entropy(logits, clean[where]), where)

    def _logits(
        self, batch: MLMBatch, ids: Int64[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "picked_pos d_vocab"]:
        segments, positions = batch.get("segment_ids"), batch.get("positions")
        if segments is None:
            return self.model(ids, batch["attention_mask"], positions, where=where)
        block_mask = self.model.mask_documents(segments)
        return self.model(ids, None, positions, block_mask, where=where)


def _cross_entropy(
    logits: Float[Tensor, "picked_pos d_vocab"], targets: Int64[Tensor, " picked_pos"]
) -> Float[Tensor, " picked_pos"]:
    return functional.cross_entropy(logits.float(), targets, reduction="none")
