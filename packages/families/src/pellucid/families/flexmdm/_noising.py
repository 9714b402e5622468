"""The noising process: some tokens of a text are missing, some are masked."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.core import RequirementError
from pellucid.families.flexmdm.noise_flexmdm import FlexMDMNoiseSchedule
from pellucid.families.flexmdm.types_flexmdm import FlexMDMBatch


@dataclass(frozen=True, eq=False)
class Noised:
    """Texts at a time, without the tokens that are missing.

    Attributes:
        ids: Token ids; the mask's, and padding on the right.
        shown: False on padding.
        is_mask: Where a token is masked.
        targets: The tokens of the text at these places, the one under each mask among them.
        is_slot: Where something may be missing to the left.
        gaps: How many tokens are missing to the left of each place.
    """

    ids: Int64[Tensor, "batch pos"]
    shown: Bool[Tensor, "batch pos"]
    is_mask: Bool[Tensor, "batch pos"]
    targets: Int64[Tensor, "batch pos"]
    is_slot: Bool[Tensor, "batch pos"]
    gaps: Int64[Tensor, "batch pos"]


def noisable(batch: FlexMDMBatch, tokenizer: Any) -> Bool[Tensor, "batch pos"]:
    """Return which tokens may be removed or masked: all but what is given, padding and EOS."""
    is_text = batch["attention_mask"] & ~batch["fixed"]
    return is_text & (batch["input_ids"] != tokenizer.eos_token_id)


def add_noise(
    batch: FlexMDMBatch,
    t: Float[Tensor, " batch"],
    schedule: FlexMDMNoiseSchedule,
    *,
    tokenizer: Any,
    generator: torch.Generator | None = None,
) -> Noised:
    """Draw texts at a time.

    A token is inserted as a mask at a time of its own, and shown at another one after that (Kim et
    al. 2025, arXiv:2509.01025); at time t it is missing, masked or shown.

    Args:
        batch: Whole texts.
        t: The time of each row.
        schedule: Whose times are drawn, in the precision of `t`.
        tokenizer: Whose mask, padding and EOS are meant.
        generator: Where to draw from; torch's own if None.
    """
    ids = batch["input_ids"]
    inserted = schedule.insertion_noise_schedule.sample(
        ids.shape, ids.device, generator=generator, dtype=t.dtype
    )
    shown = schedule.unmasking_noise_schedule.sample_truncated(inserted, generator=generator)
    may_change, now = noisable(batch, tokenizer), t[:, None]
    is_missing = may_change & (now < inserted)
    is_mask = may_change & ~is_missing & (now < shown)
    return remove(batch, is_missing, is_mask, tokenizer=tokenizer)


def remove(
    batch: FlexMDMBatch,
    is_missing: Bool[Tensor, "batch pos"],
    is_mask: Bool[Tensor, "batch pos"],
    *,
    tokenizer: Any,
) -> Noised:
    """Take the missing tokens away, mask others, and say what is to be predicted."""
    ids, fixed = batch["input_ids"], batch["fixed"]
    may_grow = ~fixed
    # What was noised may be missing to the left of a given token, too.
    may_grow[:, 1:] |= ~fixed[:, :-1]
    kept = batch["attention_mask"] & ~is_missing
    n_kept = kept.sum(dim=1, keepdim=True)
    width = int(n_kept.max())
    shown = torch.arange(width, device=ids.device) < n_kept
    origin = _places(kept, width)

    def compact(values: Tensor) -> Tensor:
        return values.gather(1, origin)

    n_missing = compact(is_missing.cumsum(dim=1))
    gaps = n_missing.diff(dim=1, prepend=torch.zeros_like(n_missing[:, :1]))
    targets, masked = compact(ids), compact(is_mask) & shown
    noised = targets.masked_fill(masked, tokenizer.mask_token_id)
    return Noised(
        ids=noised.masked_fill(~shown, tokenizer.pad_token_id),
        shown=shown,
        is_mask=masked,
        targets=targets,
        is_slot=compact(may_grow) & shown,
        gaps=gaps.masked_fill(~shown, 0),
    )


def _places(kept: Bool[Tensor, "batch pos"], width: int) -> Int64[Tensor, "batch kept"]:
    """Return where what is kept comes from, in order; anything for what is beyond it."""
    n_pos = kept.shape[1]
    place = torch.where(kept, kept.cumsum(dim=1) - 1, width)
    columns = torch.arange(n_pos, device=kept.device).expand_as(place)
    origin = columns.new_zeros(len(kept), width + 1).scatter(1, place, columns)
    return origin[:, :width]


def check_tokenizer(tokenizer: Any) -> None:
    """Make sure that a text's end can be told from padding.

    Raises:
        RequirementError: The tokenizer has one token for both, or lacks one that is needed.
    """
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "mask")}
    lacking = [name for name, id_ in ids.items() if id_ is None]
    if lacking:
        message = f"the tokenizer has no token for {lacking!r}; add it"
        raise RequirementError(message)
    if ids["pad"] == ids["eos"]:
        message = (
            f"padding and EOS are one token, {ids['pad']!r}; add a padding token of its own, since "
            "EOS is the slot at the end of a text, and padding is none"
        )
        raise RequirementError(message)
