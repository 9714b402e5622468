"""Losses over the logits that predict a prefilled target response."""

import dataclasses

from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import BaseLoss, boundary
from pellucid.losses._token_nll import IGNORE_INDEX, check_positive, masked_mean, token_nll


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
