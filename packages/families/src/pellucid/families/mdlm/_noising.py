"""The forward process: which tokens are masked at which time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.xlm.contracts import NoiseSchedule
from pellucid.xlm.modules import stratified_uniforms


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of a batch.

    Attributes:
        is_masked: What is masked.
        total_noise: At which noise, nats.
        weight: See `MDLMBatch`.
    """

    is_masked: Bool[Tensor, "batch pos"]
    total_noise: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


@runtime_checkable
class Noising(Protocol):
    """Draws the noise of a batch."""

    def __call__(
        self,
        is_eligible: Bool[Tensor, "batch pos"],
        schedule: NoiseSchedule,
        *,
        generator: torch.Generator | None,
    ) -> Noise:
        """Draw.

        Args:
            is_eligible: What may be masked.
            schedule: How noise grows with time.
            generator: Where to draw from, on the device of the batch.
        """
        ...


def mask_each_token(
    is_eligible: Bool[Tensor, "batch pos"],
    schedule: NoiseSchedule,
    *,
    generator: torch.Generator | None,
) -> Noise:
    """Draw a time per row from the schedule, and mask each token by itself.

    The weight is rate / (exp(total) - 1), which for the log-linear schedule is one over the time:
    the bound is the integral over all times (Sahoo et al. 2024, arXiv:2406.07524).
    """
    n_rows = len(is_eligible)
    t = schedule.sample_t(n_rows, generator=generator)
    # Times rise with the row where they are spread; rows that are alike should not share them.
    t = t[torch.randperm(n_rows, generator=generator, device=t.device)].to(is_eligible.device)
    rate, total = schedule(t)
    uniforms = torch.rand(is_eligible.shape, generator=generator, device=is_eligible.device)
    is_masked = (uniforms < -torch.expm1(-total)[:, None]) & is_eligible
    return Noise(is_masked, total, rate / torch.expm1(total))


def mask_a_number(
    is_eligible: Bool[Tensor, "batch pos"],
    schedule: NoiseSchedule | None = None,
    *,
    generator: torch.Generator | None,
    stratum: tuple[int, int] | None = None,
) -> Noise:
    """Draw how many tokens of each row are masked, then which, then the noise at which they are.

    With k of n tokens masked, the integral of the bound over all times is n / k times the
    cross-entropy of the masks, averaged over k from 1 to n. This is the same bound, whatever the
    schedule, and it varies less: no row is without masks, the number of masks is spread evenly over
    the rows, and its weight goes by it. The noise is what the process has when the k-th token of
    the row is masked: if all of them are masked at times that are uniform in the share of masks,
    that is the k-th smallest of n uniform numbers.

    Args:
        is_eligible: What may be masked.
        schedule: Not asked.
        generator: Where to draw from.
        stratum: (i, n): draw all rows' numbers from the i-th of n parts of their range, rather than
            each from a part of its own.
    """
    del schedule
    n_rows, device = len(is_eligible), is_eligible.device
    if stratum is None:
        share = stratified_uniforms(n_rows, generator=generator, device=device)
    else:
        share = torch.rand(n_rows, generator=generator, device=device)
        share = (stratum[0] + share) / stratum[1]
    n_eligible = is_eligible.sum(dim=1)
    counts = (share * n_eligible).long().clamp(max=n_eligible - 1) + 1
    # In double precision no two numbers of a row are ever equal.
    when = torch.rand(
        is_eligible.shape, generator=generator, device=device, dtype=torch.float64
    ).masked_fill(~is_eligible, torch.inf)
    last = when.sort(dim=1).values.gather(1, (counts - 1).clamp(min=0)[:, None])
    return Noise(
        is_masked=(when <= last) & is_eligible,
        total_noise=-torch.log1p(-last[:, 0].clamp(max=1)).float(),
        weight=n_eligible / counts.clamp(min=1),
    )


NOISINGS: Mapping[str, Noising] = {"number": mask_a_number, "each": mask_each_token}


def noise_batch(
    ids: Int64[Tensor, "batch pos"],
    is_eligible: Bool[Tensor, "batch pos"],
    *,
    kind: str,
    schedule: NoiseSchedule,
    mask_id: int,
    generator: torch.Generator | None,
) -> dict[str, Any]:
    """Return what a batch of the family holds of noise, and its input."""
    noise = NOISINGS[kind](is_eligible, schedule, generator=generator)
    t = schedule.t_from_total_noise(noise.total_noise).clamp(min=0, max=1)
    return {
        "input_ids": ids.masked_fill(noise.is_masked, mask_id),
        "t": t,
        "total_noise": noise.total_noise,
        "noise_rate": schedule.noise_rate(t),
        "weight": noise.weight,
    }
