"""The noise of the family: tokens are dropped, and their places close up."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.xlm.modules import select_random_indices, stratified_uniforms


def draw_drops(
    is_token: Bool[Tensor, "batch pos"], *, generator: torch.Generator | None = None
) -> Bool[Tensor, "batch pos"]:
    """Choose the tokens to drop: every number of them is as likely, and every set of that number.

    Numbers are stratified over the rows of a batch, from none to all tokens of a row.
    """
    share = stratified_uniforms(len(is_token), generator=generator, device=is_token.device)
    counts = (share * (is_token.sum(dim=1) + 1)).long()
    return select_random_indices(is_token, counts, generator=generator)


def drop(
    ids: Int64[Tensor, "batch pos"],
    bos_columns: Int64[Tensor, " batch"],
    tokens: Int64[Tensor, "batch target_pos"],
    is_kept: Bool[Tensor, "batch target_pos"],
) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, "batch target_pos"], Int64[Tensor, " batch"]]:
    """Put the tokens that are kept after BOS, without gaps.

    Args:
        ids: What there is up to BOS, and padding after it.
        bos_columns: Where BOS stands.
        tokens: What follows it, with none of them dropped.
        is_kept: Which of these tokens stay.

    Returns:
        All that stays; for each token its column, or, where it is dropped, that of the last one
        before it that stays; and where the padding begins.
    """
    columns = bos_columns[:, None] + is_kept.cumsum(dim=1)
    filled = ids.clone()
    filled[is_kept.nonzero()[:, 0], columns[is_kept]] = tokens[is_kept]
    return filled, columns, bos_columns + is_kept.sum(dim=1) + 1
