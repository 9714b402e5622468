"""The objective of the family: tokens under masks, and numbers of missing tokens."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.families.flexmdm._bound import bound_nats
from pellucid.families.flexmdm._gaps import check_gap_type, gap_loss
from pellucid.families.flexmdm._noising import Noised, add_noise, check_tokenizer, noisable
from pellucid.families.flexmdm.noise_flexmdm import as_flexmdm_schedule
from pellucid.families.flexmdm.types_flexmdm import (
    FlexMDMBatch,
    FlexMDMLossDict,
    FlexMDMNetwork,
)
from pellucid.xlm.contracts import LossFunction, NLLBound
from pellucid.xlm.modules import evaluating, stratified_uniforms


class FlexMDMLoss(LossFunction[FlexMDMBatch, FlexMDMLossDict]):
    """Weighted losses of what is masked and of what is missing, at a time drawn for each row.

    Each is weighted by the hazard of its schedule, which has no bound as time goes to 1. Times end
    at `1 - eps`, so that no weight is above about `1 / eps` (`2 / eps` for the sine); `max_weight`
    bounds them further. Neither moves the minimiser, which is sought for each time on its own.

    Args:
        noise_schedule: A `FlexMDMNoiseSchedule`; linear if None.
        model: The network; filled in by the harness if None.
        tokenizer: Whose mask, padding and EOS are meant; filled in by the harness if None.
        insert_loss_fn: "expectation" or "distribution", to be sure of what the network predicts;
            whatever that is if None.
        eps: The times that are left out, next to 1.
        max_weight: The largest weight; no other bound than that of `eps` if None.
        n_bound_samples: How many times of each row `nll_bound` averages over.

    Raises:
        ArgumentError: A number is out of its range.
    """

    def __init__(
        self,
        noise_schedule: Any = None,
        model: FlexMDMNetwork | None = None,
        tokenizer: Any = None,
        *,
        insert_loss_fn: str | None = None,
        eps: float = 1e-3,
        max_weight: float | None = None,
        n_bound_samples: int = 8,
    ) -> None:
        if not 0 < eps < 1:
            raise ArgumentError(f"eps is {eps!r}; give a share of the time, above 0 and below 1")
        if max_weight is not None and max_weight <= 0:
            raise ArgumentError(f"max_weight is {max_weight!r}; give a number above 0, or None")
        if n_bound_samples < 1:
            message = f"n_bound_samples is {n_bound_samples!r}; average over at least one"
            raise ArgumentError(message)
        self.noise_schedule = noise_schedule
        self.model, self.tokenizer = model, tokenizer
        self.insert_loss_fn = insert_loss_fn
        self.eps, self.max_weight = eps, max_weight
        self.n_bound_samples = n_bound_samples

    def configure(self, pl_module: Any) -> None:
        """Check that the parts fit each other."""
        del pl_module
        self._check()

    def loss_fn(
        self,
        batch: FlexMDMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> FlexMDMLossDict:
        """Draw a time and noise for each row, and compute the loss."""
        del batch_idx, dataloader_idx, dataloader_name
        self._check()
        ids = batch["input_ids"]
        schedule = as_flexmdm_schedule(self.noise_schedule)
        t = self._draw_times(len(ids), ids.device)
        noised = add_noise(batch, t, schedule, tokenizer=self.tokenizer, generator=self.generator)
        unmask, insertion = self._nats(noised, t)
        masked = self._weighted(unmask, schedule.unmasking_noise_schedule, t, noised.is_mask)
        missing = self._weighted(insertion, schedule.insertion_noise_schedule, t, noised.is_slot)
        tokens = noisable(batch, self.tokenizer).sum(dim=1)
        # With nothing to noise there is no loss, and still a graph to differentiate.
        n_tokens = tokens.sum().clamp(min=1)
        unmask_loss, insertion_loss = masked / n_tokens, missing / n_tokens
        return {
            "loss": unmask_loss + insertion_loss,
            "unmask_loss": unmask_loss,
            "insertion_loss": insertion_loss,
            "tokens": tokens,
        }

    def nll_bound(self, batch: FlexMDMBatch) -> NLLBound:
        """Bound the negative log-likelihood of the texts, given what is fixed.

        The model is the process that inserts and lifts masks at the rates the network says until
        time `1 - eps`, and then fills what is masked. Its paths say which token came when, so that
        the cost of a path bounds that of its text; see `bound_nats`. Lengths of texts cost too, in
        what is said about gaps; tokens are counted without EOS.
        """
        self._check()
        ids = batch["input_ids"]
        generator = self.generator or torch.Generator(ids.device).manual_seed(0)
        with evaluating(self.model):
            nats = bound_nats(
                self.model,
                batch,
                as_flexmdm_schedule(self.noise_schedule),
                tokenizer=self.tokenizer,
                eps=self.eps,
                n_samples=self.n_bound_samples,
                generator=generator,
            )
        return NLLBound(nats.float(), noisable(batch, self.tokenizer).sum(dim=1))

    def _draw_times(self, n_rows: int, device: torch.device) -> Float[Tensor, " batch"]:
        """Draw a time for each row, spread over the rows, none of them next to 1."""
        uniforms = stratified_uniforms(n_rows, generator=self.generator, device=device)
        return (1 - self.eps) * uniforms

    def _nats(
        self, noised: Noised, t: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " picked_pos"], Float[Tensor, " slot"]]:
        """Return the loss of each masked token, and that of each slot."""
        logits, lengths = self.model(noised.ids, t, noised.shown, where=noised.is_mask)
        unmask = functional.cross_entropy(
            logits.float(), noised.targets[noised.is_mask], reduction="none"
        )
        is_distribution = self.model.len_predict_type == "distribution"
        insertion = gap_loss(lengths, noised.gaps, noised.is_slot, is_distribution=is_distribution)
        return unmask, insertion

    def _weighted(
        self,
        nats: Float[Tensor, " picked_pos"],
        schedule: Any,
        t: Float[Tensor, " batch"],
        where: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, ""]:
        most = torch.inf if self.max_weight is None else self.max_weight
        weights = schedule.rate_scale_factor(t).clamp(max=most)
        return (nats * weights[:, None].expand(where.shape)[where]).sum()

    def _check(self) -> None:
        check_tokenizer(self.tokenizer)
        check_gap_type(self.model, "insert_loss_fn", self.insert_loss_fn)
