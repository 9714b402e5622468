"""Keeps to triggers that are the same tokens again once they have been text."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import BaseTokenizer, RetokenizationError

_MAX_ROUNDS = 8


def retokenize_mask(
    candidate_ids: Int64[Tensor, "n_candidates trigger_pos"], tokenizer: BaseTokenizer
) -> Bool[Tensor, " n_candidates"]:
    """Say which triggers, on their own, survive decoding and encoding again, on the CPU."""
    again = tokenizer.batch_encode(tokenizer.decode_triggers(candidate_ids))
    pairs = zip(candidate_ids.tolist(), again, strict=True)
    return torch.tensor([before == after for before, after in pairs], dtype=torch.bool)


def retokenize_filtering(
    candidate_ids: Int64[Tensor, "n_candidates trigger_pos"], tokenizer: BaseTokenizer
) -> Int64[Tensor, "_ trigger_pos"]:
    """Return the triggers that survive on their own; possibly none."""
    return candidate_ids[retokenize_mask(candidate_ids, tokenizer)]


def draw_surviving(
    draw: Callable[[int], Int64[Tensor, "n_candidates trigger_pos"]],
    survives: Callable[[Int64[Tensor, "n_candidates trigger_pos"]], Bool[Tensor, " n_candidates"]],
    n_candidates: int,
) -> Int64[Tensor, "_ trigger_pos"]:
    """Draw candidates round after round until enough of them survive.

    Args:
        draw: Takes the number of the round, returns candidates.
        survives: Says which candidates to keep.
        n_candidates: How many to return.

    Returns:
        At most `n_candidates` survivors, at least one, in the order they were drawn.

    Raises:
        RetokenizationError: (a RuntimeError) If no candidate survived in any round.
    """
    kept: list[Tensor] = []
    missing = n_candidates
    for round_number in range(_MAX_ROUNDS):
        drawn = draw(round_number)
        survivors = drawn[survives(drawn)][:missing]
        kept.append(survivors)
        missing -= len(survivors)
        if missing <= 0:
            break
    candidates = torch.cat(kept)
    if len(candidates) == 0:
        raise RetokenizationError(
            f"none of {_MAX_ROUNDS * n_candidates} candidates is the same tokens again once it has "
            "been text. Leave a space before the placeholder in the template, start from another "
            "trigger, or optimize without the guarantee by use_retokenize=False."
        )
    return candidates
