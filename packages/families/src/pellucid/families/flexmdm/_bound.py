"""A bound on the likelihood of a text under the process that inserts tokens and lifts masks.

The model inserts masks to the left of slot i at the rate a(t) g_i, where a is the hazard of the
insertion schedule and g_i the number of tokens that the network expects there, and shows a masked
token v at the rate b(t) p_i(v), until time 1 - eps. A path that says at which slot each mask came
in tells which token of the final text it became, so the chance of a text is a sum over the times
at which its tokens were inserted and shown. The noising process, with schedules that are cut at
1 - eps so that nothing is left to do afterwards, draws such times with hazards A > a and B > b. The
expected logarithm of the ratio of the two path densities bounds the negative log-likelihood:

    integral over t of  E[ sum over masked i of  B (log(B / b) - log p_i(x_i)) + b - B
                         + sum over slots i of   A n_i (log(A / a) - log g_i) + a g_i - A n_i ]

with n_i tokens missing to the left of slot i. For a token, what is cut off costs about eps nats.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.families.flexmdm._gaps import expected_gaps
from pellucid.families.flexmdm._noising import Noised, add_noise
from pellucid.families.flexmdm.noise_flexmdm import FlexMDMNoiseSchedule, InterpolantSchedule
from pellucid.families.flexmdm.types_flexmdm import FlexMDMBatch, FlexMDMNetwork
from pellucid.xlm.modules import TokenConstraints


class CutSchedule(InterpolantSchedule):
    """A schedule, given that the time comes before an end.

    Args:
        whole: The schedule.
        end: The last time, above 0 and at most 1.
    """

    def __init__(self, whole: InterpolantSchedule, end: float) -> None:
        self.whole, self.end = whole, end
        self._share = float(whole.at(torch.tensor(end, dtype=torch.float64)))

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the chance that the time has come by `t`, 1 at the end."""
        return self.whole.at(t) / self._share

    def derivative_at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the density."""
        return self.whole.derivative_at(t) / self._share

    def rate_scale_factor(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the hazard, which has no bound towards the end."""
        return self.whole.derivative_at(t) / (self._share - self.whole.at(t))

    def inv(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a chance."""
        return self.whole.inv(alpha * self._share).clamp(max=self.end)


def bound_nats(
    model: FlexMDMNetwork,
    batch: FlexMDMBatch,
    schedule: FlexMDMNoiseSchedule,
    *,
    tokenizer: Any,
    eps: float,
    n_samples: int,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """Estimate the bound, without bias, from some times of each row.

    Times are denser towards the end, where the hazards have no bound: of times drawn evenly, the
    variance of the estimate would not be finite. They are stratified over the samples.

    Args:
        model: The network.
        batch: Whole texts.
        schedule: Of the model and of the noise.
        tokenizer: Whose special tokens are meant.
        eps: How long before time 1 the process ends.
        n_samples: How many times.
        generator: Where to draw from.
    """
    end = 1 - eps
    cut = FlexMDMNoiseSchedule(
        CutSchedule(schedule.insertion_noise_schedule, end),
        CutSchedule(schedule.unmasking_noise_schedule, end),
    )
    ids = batch["input_ids"]
    nats = torch.zeros(len(ids), device=ids.device, dtype=torch.float64)
    for sample in range(n_samples):
        uniforms = torch.rand(len(ids), generator=generator, device=ids.device, dtype=nats.dtype)
        # So near to the end, hazards would be a difference of numbers that are alike.
        left = (1 - (sample + uniforms) / n_samples).clamp(min=1e-6)
        t = end * (1 - left**2)
        noised = add_noise(batch, t, cut, tokenizer=tokenizer, generator=generator)
        density = 2 * end * left
        nats += density * _rate_of_nats(model, noised, t, schedule, cut, tokenizer)
    return nats / n_samples


def _rate_of_nats(
    model: FlexMDMNetwork,
    noised: Noised,
    t: Float[Tensor, " batch"],
    schedule: FlexMDMNoiseSchedule,
    cut: FlexMDMNoiseSchedule,
    tokenizer: Any,
) -> Float[Tensor, " batch"]:
    """Return the integrand at one state of each row."""
    never = TokenConstraints((tokenizer.mask_token_id,))
    logits, lengths = model(noised.ids, t.float(), noised.shown, where=noised.is_mask)
    log_probs = never.restrict(logits.double()).log_softmax(dim=-1)
    right = log_probs.gather(1, noised.targets[noised.is_mask][:, None])[:, 0]
    is_distribution = model.len_predict_type == "distribution"
    said = expected_gaps(lengths.double(), is_distribution=is_distribution)

    def hazards(of: FlexMDMNoiseSchedule) -> tuple[Tensor, Tensor]:
        held = (of.unmasking_noise_schedule, of.insertion_noise_schedule)
        unmask, insert = (one.rate_scale_factor(t)[:, None] for one in held)
        return unmask, insert

    (b, a), (b_cut, a_cut) = hazards(schedule), hazards(cut)
    n_masks = noised.is_mask.sum(dim=1, keepdim=True)
    unmask = n_masks * (b_cut * (b_cut / b).log() + b - b_cut)
    surprise = torch.zeros_like(said).masked_scatter(noised.is_mask, -right)
    missing = noised.gaps.double()
    insert = a_cut * missing * ((a_cut / a).log() - said.log()) + a * said - a_cut * missing
    insert = insert.where(noised.is_slot, 0.0)
    return (unmask[:, 0] + (b_cut * surprise + insert).sum(dim=1)).double()
