"""Keeps to triggers that are the same tokens again once they have been text."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import BaseTokenizer, RetokenizationError

MAX_ROUNDS = 8
"""How often candidates are drawn anew before fewer than were wanted must do."""


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


def retokenize_transform(
    candidate_ids: Int64[Tensor, "n_candidates trigger_pos"], tokenizer: BaseTokenizer
) -> Int64[Tensor, "n_candidates trigger_pos"]:
    """Return the tokens that each trigger becomes, on its own, by decoding and encoding again.

    A trigger that becomes longer is cut off, one that becomes shorter ends with the tokens it ended
    with before, so that all keep their length. What comes out need not survive itself.
    """
    again = tokenizer.batch_encode(tokenizer.decode_triggers(candidate_ids))
    return keep_length(candidate_ids, again)


def keep_length(
    candidate_ids: Int64[Tensor, "n_candidates trigger_pos"], again: Sequence[Sequence[int]]
) -> Int64[Tensor, "n_candidates trigger_pos"]:
    """Return rows of tokens, each cut off, or filled up with a candidate's, to its length."""
    n_pos = candidate_ids.shape[1]
    pairs = zip(candidate_ids.tolist(), again, strict=True)
    rows = [[*new[:n_pos], *old[len(new) :]] for old, new in pairs]
    return torch.tensor(rows, dtype=torch.int64).reshape(candidate_ids.shape)


def keep_all(
    candidate_ids: Int64[Tensor, "n_candidates trigger_pos"],
) -> Bool[Tensor, " n_candidates"]:
    """Say of every candidate that it may stay: the filter of those who use none."""
    return torch.ones(len(candidate_ids), dtype=torch.bool)


def take_surviving(
    rounds: Iterable[Int64[Tensor, "_ trigger_pos"]],
    survives: Callable[[Int64[Tensor, "n_candidates trigger_pos"]], Bool[Tensor, " n_candidates"]],
) -> Int64[Tensor, "_ trigger_pos"]:
    """Return the survivors of the first round that has any.

    Args:
        rounds: Candidates, round after round; only as many rounds are asked for as are needed.
        survives: Says which candidates to keep.

    Raises:
        RetokenizationError: (a RuntimeError) If no candidate survived in any round.
    """
    n_tried = 0
    for candidates in rounds:
        kept = candidates[survives(candidates)]
        if len(kept):
            return kept
        n_tried += len(candidates)
    raise none_survived(n_tried)


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
    candidates = collect_surviving(draw, survives, n_candidates)
    if len(candidates) == 0:
        raise none_survived(MAX_ROUNDS * n_candidates)
    return candidates


def collect_surviving(
    draw: Callable[[int], Int64[Tensor, "n_candidates trigger_pos"]],
    survives: Callable[[Int64[Tensor, "n_candidates trigger_pos"]], Bool[Tensor, " n_candidates"]],
    n_candidates: int,
    *,
    n_rounds: int = MAX_ROUNDS,
) -> Int64[Tensor, "_ trigger_pos"]:
    """Draw candidates as `draw_surviving` does, in so many rounds; possibly none survives."""
    kept: list[Tensor] = []
    missing = n_candidates
    for round_number in range(n_rounds):
        drawn = draw(round_number)
        survivors = drawn[survives(drawn)][:missing]
        kept.append(survivors)
        missing -= len(survivors)
        if missing <= 0:
            break
    return torch.cat(kept)


def none_survived(n_tried: int) -> RetokenizationError:
    """Return the error that tells so."""
    return RetokenizationError(
        f"none of {n_tried} candidates is the same tokens again once it has been text. Leave a "
        "space before the placeholder in the template, start from another trigger, or optimize "
        "without the guarantee by use_retokenize=False."
    )
