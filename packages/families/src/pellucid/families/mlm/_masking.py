"""The noise of the family: any number of tokens is masked."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.families.mlm.types_mlm import MLMBatch
from pellucid.xlm.contracts import IGNORED
from pellucid.xlm.modules import select_random_indices, stratified_uniforms


def mask_batch(
    ids: Int64[Tensor, "batch pos"],
    is_shown: Bool[Tensor, "batch pos"],
    is_eligible: Bool[Tensor, "batch pos"],
    *,
    mask_id: int,
    generator: torch.Generator | None,
) -> MLMBatch:
    """Mask some of the eligible tokens of each row, and ask about all of them.

    To mask each with a probability that is itself uniform makes every number of masks as likely;
    that number is drawn here, stratified over the rows and never zero.

    Args:
        ids: Whole texts.
        is_shown: False on what is hidden from the network.
        is_eligible: What may be masked.
        mask_id: The id of the mask.
        generator: Where to draw from; torch's own if None.
    """
    share = stratified_uniforms(len(ids), generator=generator)
    n_eligible = is_eligible.sum(dim=1)
    counts = (share * n_eligible).long().clamp(max=n_eligible - 1) + 1
    chosen = select_random_indices(is_eligible, counts, generator=generator)
    return {
        "input_ids": ids.masked_fill(chosen, mask_id),
        "attention_mask": is_shown,
        "target_ids": ids.masked_fill(~is_eligible, IGNORED),
        "fixed_positions_mask": ~is_eligible,
    }
