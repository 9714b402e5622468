"""Losses over the logits that predict a prefilled target response."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ArgumentError, BaseLoss, boundary
from pellucid.losses._token_nll import (
    IGNORE_INDEX,
    check_positive,
    gather_tokens,
    masked_mean,
    token_nll,
    widen,
)


class PrefillBasedLoss(BaseLoss):
    """Reads the logits of a target response that is appended to the input."""

    require_target_prefill = True


@dataclasses.dataclass
class PrefillCELoss(PrefillBasedLoss):
    """How unlikely the target response is: the mean negative log-likelihood of its tokens, in nats.

    The objective of GCG (Zou et al. 2023, arXiv 2307.15043). Positions that hold `IGNORE_INDEX`
    are left out.

    Args:
        temperature: Divides the logits.
        clamp_min_nll: A token that is likelier than this many nats does not lower the loss further,
            nor does it have a gradient; no bound when None.

    Raises:
        ArgumentError: (a ValueError) If the temperature is not positive.
    """

    temperature: float = 1.0
    clamp_min_nll: float | None = None

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    @boundary
    def __call__(
        self,
        prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"],
        target_response_toks: Int[Tensor, " target_pos"],
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            prefill_response_logits: Logits that predict the target tokens.
            target_response_toks: The target tokens, shared by all samples.

        Returns:
            Float, of shape (batch,).
        """
        tokens = target_response_toks.to(prefill_response_logits.device)
        nll = token_nll(prefill_response_logits, tokens[None], temperature=self.temperature)
        if self.clamp_min_nll is not None:
            nll = nll.clamp(min=self.clamp_min_nll)
        return masked_mean(nll, tokens != IGNORE_INDEX)


@dataclasses.dataclass
class PrefillMellowMaxLoss(PrefillBasedLoss):
    """A soft maximum over positions of how low the target tokens' logits are.

    (1/a) log mean_t exp(-a z_t[y_t] / T), on raw logits: the mellowmax of Asadi and Littman 2017
    (arXiv 1612.05628), which the worst position dominates as a grows. Positions that hold
    `IGNORE_INDEX` are left out.

    Args:
        mellowmax_alpha: The sharpness a; near 0 it is the mean, towards infinity the maximum.
        temperature: Divides the logits.

    Raises:
        ArgumentError: (a ValueError) If either is not positive.
    """

    mellowmax_alpha: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("mellowmax_alpha", self.mellowmax_alpha)
        check_positive("temperature", self.temperature)

    @boundary
    def __call__(
        self,
        prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"],
        target_response_toks: Int[Tensor, " target_pos"],
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            prefill_response_logits: Logits that predict the target tokens.
            target_response_toks: The target tokens, shared by all samples.

        Returns:
            Float, of shape (batch,); 0 where every position is ignored.
        """
        tokens = target_response_toks.to(prefill_response_logits.device)
        counted = tokens != IGNORE_INDEX
        alpha = self.mellowmax_alpha
        scaled = -alpha * gather_tokens(prefill_response_logits, tokens) / self.temperature
        # With nothing to count, zeros at every position have a soft maximum, and a gradient, of 0.
        left_out = torch.where(counted.any(), -torch.inf, 0.0).to(scaled)
        n_terms = torch.where(counted.any(), counted.sum(), counted.numel())
        soft_sum = torch.where(counted, scaled, left_out).logsumexp(dim=-1)
        return (soft_sum - n_terms.to(scaled).log()) / alpha


@dataclasses.dataclass
class PrefillCWLoss(PrefillBasedLoss):
    """By how much the target tokens are beaten by their strongest rivals, in logits.

    The hinge of Carlini and Wagner 2017 (arXiv 1608.04644) at each position:
    w_t max(-margin, max_{v != y_t} z_t[v] - z_t[y_t]), in the mean over positions. Once every
    target token leads by the margin, greedy decoding yields the target. Positions that hold
    `IGNORE_INDEX` are left out.

    Args:
        cw_margin: By how much a token must lead before it stops lowering the loss.
        first_token_weight: The weight w of the first position; that of the others is 1.

    Raises:
        ArgumentError: (a ValueError) If either is negative.
    """

    cw_margin: float = 5.0
    first_token_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("cw_margin", "first_token_weight"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"{name} must not be negative, got {getattr(self, name)!r}.")

    @boundary
    def __call__(
        self,
        prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"],
        target_response_toks: Int[Tensor, " target_pos"],
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            prefill_response_logits: Logits that predict the target tokens.
            target_response_toks: The target tokens, shared by all samples.

        Returns:
            Float, of shape (batch,).
        """
        tokens = target_response_toks.to(prefill_response_logits.device)
        rivals = _find_rivals(prefill_response_logits, tokens)
        lead = rivals - gather_tokens(prefill_response_logits, tokens)
        hinge = lead.clamp(min=-self.cw_margin)
        weights = torch.ones_like(hinge[0])
        weights[:1] = self.first_token_weight
        return masked_mean(weights * hinge, tokens != IGNORE_INDEX)


def _find_rivals(
    logits: Float[Tensor, "batch target_pos d_vocab"], tokens: Int[Tensor, " target_pos"]
) -> Float[Tensor, "batch target_pos"]:
    # The best two suffice, and spare a copy of the logits with the target's masked.
    best, ids = logits.topk(2, dim=-1)
    return widen(torch.where(ids[..., 0] == tokens, best[..., 1], best[..., 0]))


@dataclasses.dataclass
class PrefillDistillationLoss(PrefillBasedLoss):
    """How far the predictions are from reference logits: their mean cross-entropy, in nats.

    Args:
        temperature: Divides the model's logits.
        reference_temperature: Divides the reference logits.
        clamp_min_nll: A position with less cross-entropy than this does not lower the loss
            further; no bound when None.

    Raises:
        ArgumentError: (a ValueError) If a temperature is not positive.
    """

    temperature: float = 1.0
    reference_temperature: float = 1.0
    clamp_min_nll: float | None = None

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_positive("reference_temperature", self.reference_temperature)

    @boundary
    def __call__(
        self,
        prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"],
        target_response_logits: Float[Tensor, "target_pos d_vocab"],
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            prefill_response_logits: Logits that predict the target tokens.
            target_response_logits: Logits to imitate, shared by all samples.

        Returns:
            Float, of shape (batch,).
        """
        predicted = (widen(prefill_response_logits) / self.temperature).log_softmax(dim=-1)
        reference = widen(target_response_logits).to(predicted) / self.reference_temperature
        probs = reference.softmax(dim=-1)
        # A token that both exclude has probability 0 and log-probability -inf: it costs nothing.
        terms = torch.where(probs > 0, probs * predicted, 0.0)
        losses = -terms.sum(dim=-1)
        if self.clamp_min_nll is not None:
            losses = losses.clamp(min=self.clamp_min_nll)
        return losses.mean(dim=-1)
