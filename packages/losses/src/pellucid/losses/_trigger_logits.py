"""Losses over the logits that predict the trigger itself."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ArgumentError, BaseLoss, SliceKey, TriggerSlot, boundary
from pellucid.losses._slices import find_span
from pellucid.losses._token_nll import check_positive, token_nll


class TriggerLogitBasedLoss(BaseLoss):
    """Reads the logits at, and before, the trigger."""


@dataclasses.dataclass
class TriggerPerplexityLoss(TriggerLogitBasedLoss):
    """How unlikely the model finds the trigger: the mean negative log-likelihood of its tokens.

    In nats for each token; the exponential of it is the perplexity. Where the trigger stands
    several times, the mean is over all of its places.

    Args:
        temperature: Divides the logits.
        slc_name: The part of the input that the trigger's tokens lie in.

    Raises:
        ArgumentError: (a ValueError) If the temperature is not positive.
    """

    temperature: float = 1.0
    slc_name: str = SliceKey.TRIGGER

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    @boundary
    def __call__(
        self,
        full_logits: Float[Tensor, "batch pos d_vocab"],
        input_trigger_ids: Int[Tensor, "batch trigger_pos"],
        input_slices: dict[str, slice],
        input_trigger_slots: list[TriggerSlot] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            full_logits: Next-token logits of every position.
            input_trigger_ids: The triggers' tokens.
            input_slices: Where the trigger lies.
            input_trigger_slots: Where it lies, if in several places.

        Returns:
            Float, of shape (batch,).

        Raises:
            ArgumentError: (a ValueError) If the trigger begins at position 0, where nothing
                predicts it, or does not lie where `input_slices` says.
        """
        slots = input_trigger_slots or []
        if self.slc_name != SliceKey.TRIGGER or len(slots) < 2:
            start, stop = find_span(input_slices, self.slc_name, full_logits.shape[1])
            slots = [TriggerSlot(slice(start, stop), slice(0, input_trigger_ids.shape[1]))]
        nll = [self._score(slot, full_logits, input_trigger_ids) for slot in slots]
        return torch.cat(nll, dim=-1).mean(dim=-1)

    def _score(
        self,
        slot: TriggerSlot,
        logits: Float[Tensor, "batch pos d_vocab"],
        trigger_ids: Int[Tensor, "batch trigger_pos"],
    ) -> Float[Tensor, "batch _"]:
        ids = trigger_ids[:, slot.columns]
        start, stop = slot.positions.start, slot.positions.stop
        _check_span(start, stop, n_tokens=ids.shape[1])
        return token_nll(logits[:, start - 1 : stop - 1], ids, temperature=self.temperature)


def _check_span(start: int, stop: int, *, n_tokens: int) -> None:
    if start == 0:
        raise ArgumentError(
            "the trigger begins at position 0, and no logits predict its first token. Put text "
            "before the placeholder, and let the model return logits for it "
            "(use_prefix_cache=False)."
        )
    if stop - start != n_tokens:
        raise ArgumentError(
            f"input_slices gives the trigger {stop - start} positions, it has {n_tokens} tokens. "
            "Use the slices of the input that these tokens stand in."
        )
