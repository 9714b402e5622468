"""The sampler of the family: the reverse of masking, or the surest tokens first."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.mdlm._reverse import ReverseTimes, likely_noise
from pellucid.families.mdlm._subs import forbid_mask
from pellucid.families.mdlm.types_mdlm import (
    MDLMNetwork,
    MDLMPredictionBatch,
    MDLMPredictionDict,
)
from pellucid.xlm.contracts import NoiseSchedule
from pellucid.xlm.sampling import (
    Chance,
    DoubtLimit,
    EvenShare,
    FillingPredictor,
    FillOrder,
    OrderPolicy,
    Read,
    Reading,
    Remasking,
    Texts,
    TokenPolicy,
)


class MDLMPredictor(FillingPredictor[MDLMPredictionBatch, MDLMPredictionDict]):
    """Fill masks step by step, from time 1 to time 0.

    Ancestral sampling, the default, is the reverse of the forward process: in a step from time t to
    s, each mask is filled with the probability (c_t - c_s) / c_t, where c is the share of masks
    under the noise schedule, by a token that is drawn from what the network says. With a confidence
    the surest masks are filled first instead. What was given never changes, of special tokens only
    EOS and padding are written, and the last step fills all that is left.

    Args:
        max_steps: The number of steps, and the most network evaluations of a row; a row in which a
            step fills nothing is not read in it.
        max_new_tokens: How many masks to put after a prompt; None to fill those that are there.
        tokenizer: Filled in by the harness if None.
        model: The network; filled in by the harness if None.
        noise_schedule: Filled in by the harness if None.
        top_k: Draw from the k best tokens.
        top_p: Draw from the fewest tokens that together have probability p; not with `top_k`.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
        confidence: Fill first where the best token has the highest probability ("top_prob"), or the
            largest margin ("prob_diff"), or where the entropy is lowest ("entropy"); ancestral
            sampling if None.
        threshold: With a confidence, fill as many of the surest masks as keep the sum of their
            doubts below it, at least one; if None, masks are shared out evenly over the steps.
        threshold_rule: See `DoubtLimit`.
        confidence_temperature: Divides logits before confidences are read from them.
        block_length: With a confidence, fill blocks of that many positions from left to right.
        remasking: Which tokens are masked again; with a confidence only.
        skip_special_tokens: Leave special tokens out of texts.
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere.

    Raises:
        ArgumentError: Settings contradict each other or are out of their range.
        UnknownNameError: The confidence or the rule of the threshold is unknown.
    """

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int | None = None,
        tokenizer: Any = None,
        *,
        model: MDLMNetwork | None = None,
        noise_schedule: NoiseSchedule | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        confidence: str | None = None,
        threshold: float | None = None,
        threshold_rule: str = "error",
        confidence_temperature: float = 1.0,
        block_length: int | None = None,
        remasking: Remasking | None = None,
        skip_special_tokens: bool = True,
        add_bos: str | None = "output",
    ) -> None:
        if confidence is None:
            settings = {
                "threshold": threshold,
                "block_length": block_length,
                "remasking": remasking,
            }
            given = {name: value for name, value in settings.items() if value is not None}
            if given:
                message = f"{given!r} needs a confidence; ancestral sampling has no such setting"
                raise ArgumentError(message)
        super().__init__(
            max_steps,
            max_new_tokens,
            tokenizer,
            model=model,
            noise_schedule=noise_schedule,
            skip_special_tokens=skip_special_tokens,
            add_bos=add_bos,
        )
        # Made without a confidence too, so that wrong settings are known now.
        self.order = FillOrder(
            confidence=confidence,
            counts=EvenShare() if threshold is None else DoubtLimit(threshold, threshold_rule),
            block_length=block_length,
            temperature=confidence_temperature,
        )
        self.tokens = TokenPolicy(temperature=temperature, top_k=top_k, top_p=top_p)
        self.is_ancestral, self.remasking = confidence is None, remasking

    def reader(self, texts: Texts) -> Read:
        """Return how the network reads: with the noise of each row, too.

        Raises:
            RequirementError: Ancestral sampling has no noise schedule to go by.
        """
        return _Reader(self.model, texts, self._times() if self.is_ancestral else None).read

    def order_of_steps(self) -> OrderPolicy:
        """Return the order of confidences, or that of the reverse process."""
        return FillOrder(counts=Chance(self._times().chance)) if self.is_ancestral else self.order

    def _times(self) -> ReverseTimes:
        if self.noise_schedule is None:
            message = (
                "noise_schedule is None, and ancestral sampling goes by it; give one, or a "
                "confidence"
            )
            raise RequirementError(message)
        return ReverseTimes.of(self.noise_schedule, self.max_steps)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Asks the network about texts in the middle of being filled.

    Attributes:
        model: The network.
        texts: As they were at the beginning.
        times: Of the steps; if None, a row has the noise that its masks are likely to have come
            from.
    """

    model: MDLMNetwork
    texts: Texts
    times: ReverseTimes | None

    def read(self, reading: Reading) -> Float[Tensor, "picked_pos d_vocab"]:
        """Return the logits of the positions that are asked for, minus infinity for the mask."""
        noise = self._noise(reading)
        logits = self.model(
            reading.ids, noise, reading.shown, reading.positions, where=reading.where
        )
        return forbid_mask(logits, self.texts.mask_id)

    def _noise(self, reading: Reading) -> Float[Tensor, " batch"]:
        is_open = self.texts.is_open[reading.rows]
        if self.times is not None:
            return torch.full(
                (len(is_open),), self.times.total_noise[reading.step], device=is_open.device
            )
        n_masks = (is_open & (reading.ids == self.texts.mask_id)).sum(dim=1)
        return likely_noise(n_masks, is_open.sum(dim=1))
