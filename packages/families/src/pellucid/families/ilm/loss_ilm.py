"""The objective of the family: which tokens are missing where, and whether any are."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError, RequirementError, UnknownNameError
from pellucid.families.ilm._drops import drop
from pellucid.families.ilm._insertion import mean_insertion_nats
from pellucid.families.ilm.types_ilm import (
    SUFFIX_TYPE,
    ILMBatch,
    ILMLossDict,
    ILMModel,
    slots_of,
)
from pellucid.xlm.contracts import IGNORED, LossFunction, NLLBound
from pellucid.xlm.modules import TokenConstraints, evaluating, select_random_indices

_LENGTH_LOSSES = ("binary_ce", "ce")


class ILMLossWithMaskedCE(LossFunction[ILMBatch, ILMLossDict]):
    """Cross-entropy of dropped tokens over all slots and tokens of a row, and of their number.

    Args:
        model: The network; filled in by the harness if None.
        tokenizer: Filled in by the harness if None.
        length_loss: "binary_ce" asks whether any token is missing, "ce" how many are. A network
            that does not say is not asked.
        length_loss_weight: Of that against the tokens.
        stopping_class_weight: For "binary_ce": weights rows with nothing missing by it, and all
            others by one minus it. Every row counts once if None.
        n_bound_samples: How many states of each row `nll_bound` averages over.

    Raises:
        ArgumentError: A number is out of its range, or a weight is for a loss without classes.
    """

    def __init__(
        self,
        model: ILMModel | None = None,
        tokenizer: Any = None,
        length_loss: str = "binary_ce",
        *,
        length_loss_weight: float = 1.0,
        stopping_class_weight: float | None = None,
        n_bound_samples: int = 8,
    ) -> None:
        if length_loss not in _LENGTH_LOSSES:
            raise UnknownNameError("length loss", length_loss, _LENGTH_LOSSES)
        if length_loss_weight < 0:
            message = f"length_loss_weight is {length_loss_weight!r}; give 0 or more"
            raise ArgumentError(message)
        if stopping_class_weight is not None:
            _check_class_weight(stopping_class_weight, length_loss)
        if n_bound_samples < 1:
            message = f"n_bound_samples is {n_bound_samples!r}; average over at least one"
            raise ArgumentError(message)
        self.model, self.tokenizer = model, tokenizer
        self.length_loss, self.length_loss_weight = length_loss, length_loss_weight
        self.stopping_class_weight = stopping_class_weight
        self.n_bound_samples = n_bound_samples

    def loss_fn(
        self,
        batch: ILMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ILMLossDict:
        """Compute the loss of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        slots = slots_of(batch)
        logits, length_logits = self.model(
            batch["input_ids"],
            batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
            where=slots,
        )
        token_nats = mean_insertion_nats(logits, slots, batch["target_ids"], batch["target_slots"])
        n_drops = (batch["target_slots"] >= 0).sum(dim=1)
        length_nats = self._length_nats(length_logits, n_drops)
        losses = token_nats + self.length_loss_weight * length_nats
        return {
            "loss": losses.mean(),
            "batch_loss": losses.detach(),
            "per_example_ce": token_nats.detach(),
            "per_example_length_loss": length_nats.detach(),
            "length_logits": None if length_logits is None else length_logits.detach(),
            "n_drops": n_drops,
        }

    def nll_bound(self, batch: ILMBatch) -> NLLBound:
        """Bound the negative log-likelihood of what follows BOS, its end included.

        A text is the product of its insertions, in the order in which they came, and of the
        decision after each of them whether to go on; its likelihood is the sum over all orders. By
        Jensen's inequality, with orders that are all as likely to explain a text, it is bounded by
        the mean over orders. A state in which m of n tokens are missing then costs the mean nats of
        these m and those of going on, less log m, because any of the m may come next; the bound is
        n times the mean of that over m from 1 to n and over sets of m tokens, and the nats of
        stopping at the whole text. Here m is stratified over the samples.

        Raises:
            RequirementError: The network does not say when a text is complete, so that it gives
                texts of different lengths no likelihood.
            ArgumentError: The batch has a `constraint`.
        """
        if batch.get("constraint") is not None:
            message = "a batch with a 'constraint' has no likelihood of its own; leave it out"
            raise ArgumentError(message)
        is_token = batch["target_ids"] != IGNORED
        n_tokens = is_token.sum(dim=1)
        generator = self.generator or torch.Generator(is_token.device).manual_seed(0)
        with evaluating(self.model):
            nats = self._state_nats(batch, is_token)
            for sample in range(self.n_bound_samples):
                uniforms = torch.rand(len(is_token), generator=generator, device=is_token.device)
                n_kept = ((sample + uniforms) / self.n_bound_samples * n_tokens).long()
                n_kept = n_kept.clamp(max=n_tokens - 1)
                is_kept = select_random_indices(is_token, n_kept, generator=generator)
                nats += self._state_nats(batch, is_kept) * n_tokens / self.n_bound_samples
        return NLLBound(nats.float(), n_tokens)

    def _state_nats(
        self, batch: ILMBatch, is_kept: Bool[Tensor, "batch target_pos"]
    ) -> Float[Tensor, " batch"]:
        """Return what a state costs from which some tokens are missing, or none."""
        targets, types = batch["target_ids"], batch["token_type_ids"]
        is_missing = (targets != IGNORED) & ~is_kept
        n_missing = is_missing.sum(dim=1)
        bos_columns = (types == SUFFIX_TYPE).long().argmax(dim=1)
        more = (0, targets.shape[1])
        ids = functional.pad(batch["input_ids"], more)
        ids, columns, ends = drop(ids, bos_columns, targets, is_kept)
        places = torch.arange(ids.shape[1], device=ids.device)
        slots = (places >= bos_columns[:, None]) & (places < ends[:, None])
        is_prompt = places < bos_columns[:, None]
        shown = functional.pad(batch["attention_mask"], more) & is_prompt | slots
        logits, length_logits = self.model(ids, shown, where=slots)
        if length_logits is None:
            message = (
                f"{type(self.model).__name__} does not say when a text is complete; give a model "
                "with a head for it"
            )
            raise RequirementError(message)
        never = TokenConstraints(
            tuple(getattr(self.tokenizer, f"{name}_token_id") for name in ("pad", "cls", "bos"))
        )
        asked = columns.masked_fill(~is_missing, IGNORED)
        nats = mean_insertion_nats(never.restrict(logits), slots, targets, asked).double()
        stop_or_go = _whether_any(length_logits).double().log_softmax(dim=1)
        decided = stop_or_go.gather(1, (n_missing > 0).long()[:, None])[:, 0]
        return nats - decided - n_missing.clamp(min=1).log()

    def _length_nats(
        self,
        logits: Float[Tensor, "batch n_classes"] | None,
        n_drops: Int64[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        if logits is None:
            return torch.zeros(len(n_drops), device=n_drops.device)
        logits = logits.float()
        if self.length_loss == "binary_ce":
            logits = _whether_any(logits)
        weight = None
        if self.stopping_class_weight is not None:
            share = self.stopping_class_weight
            weight = torch.tensor([share, 1 - share], device=logits.device)
        classes = n_drops.clamp(max=logits.shape[1] - 1)
        return functional.cross_entropy(logits, classes, weight=weight, reduction="none")


def _whether_any(logits: Float[Tensor, "batch n_classes"]) -> Float[Tensor, "batch 2"]:
    """Return logits of none and of some, from those of numbers."""
    some = logits[:, 1:].logsumexp(dim=1, keepdim=True)
    return torch.cat((logits[:, :1], some), dim=1)


def _check_class_weight(weight: float, length_loss: str) -> None:
    if length_loss != "binary_ce":
        message = (
            f"stopping_class_weight={weight!r} is for length_loss='binary_ce', not "
            f"{length_loss!r}; leave it out"
        )
        raise ArgumentError(message)
    if not 0 < weight < 1:
        message = f"stopping_class_weight is {weight!r}; give a number between 0 and 1"
        raise ArgumentError(message)
