"""Random triggers that are the same tokens again once they have been text."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.core import ArgumentError, BaseTokenizer, RetokenizationError, as_tokenizer
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._protocol import check_counts
from pellucid.optimizers._random import draw_seed
from pellucid.optimizers._sampling import draw_tokens

_MAX_ROUNDS = 32


def get_printable_random_trigger(
    trigger_len: int,
    return_ids: bool = False,
    blacklist_ids: Sequence[int] | None = None,
    tokenizer: BaseTokenizer | None = None,
    token_constraints: TokenConstraints | None = None,
    *,
    generator: torch.Generator | None = None,
) -> str | Int64[Tensor, " trigger_pos"]:
    """Return a random trigger, of exactly as many tokens when its text is encoded.

    Args:
        trigger_len: The number of tokens.
        return_ids: Whether to return token ids, int64, of shape (trigger_pos,), and not the text.
        blacklist_ids: Tokens to leave out, beside those that are not printable ASCII.
        tokenizer: A `BaseTokenizer` or a Hugging Face tokenizer.
        token_constraints: Which tokens to draw from, instead of `blacklist_ids`.
        generator: Source of randomness, on the CPU; one that nobody seeded when omitted.

    Raises:
        ArgumentError: If there is no tokenizer, if the length is less than 1, or if both a
            blacklist and constraints are given.
        RetokenizationError: (a RuntimeError) If no such trigger was found.
    """
    check_counts(trigger_len=trigger_len)
    if tokenizer is None:
        raise ArgumentError("a random trigger is made of tokens. Pass tokenizer=.")
    if blacklist_ids is not None and token_constraints is not None:
        raise ArgumentError(
            "pass blacklist_ids or token_constraints, not both; "
            "TokenConstraints(disallow_custom_token_ids=...) is the blacklist of constraints."
        )
    known = as_tokenizer(tokenizer)
    constraints = token_constraints or TokenConstraints(
        disallow_custom_token_ids=tuple(blacklist_ids or ())
    )
    drawn = draw_triggers(
        constraints.get_whitelist_ids(known),
        (1, trigger_len),
        lambda ids: known.batch_encode(known.decode_triggers(ids)),
        generator=generator or torch.Generator().manual_seed(draw_seed()),
    )
    if len(drawn) == 0:
        raise RetokenizationError(
            f"found no random trigger of {trigger_len} tokens that is the same tokens again once "
            "it has been text. Ban fewer tokens."
        )
    return drawn[0] if return_ids else known.decode_trigger(drawn[0])


def draw_triggers(
    allowed_ids: Int64[Tensor, " n_allowed"],
    shape: tuple[int, int],
    recode: Callable[[Int64[Tensor, "n_candidates trigger_pos"]], Sequence[Sequence[int]]],
    *,
    generator: torch.Generator,
) -> Int64[Tensor, "_ trigger_pos"]:
    """Draw random triggers that stay as they are when they are decoded and encoded.

    Tokens drawn at random often merge with their neighbours. So what a trigger is once it has been
    text is taken for it, as far as it is allowed, and filled up with tokens drawn anew, until
    nothing merges any more.

    Args:
        allowed_ids: The tokens to draw from, ascending.
        shape: The number of triggers, and of tokens in each.
        recode: Decodes triggers and encodes them again, to whatever lengths.
        generator: Source of randomness, on the CPU.

    Returns:
        At most as many triggers as were asked for; fewer if some did not settle.
    """
    drafts = draw_tokens(allowed_ids, shape, generator)
    allowed = set(allowed_ids.tolist())
    settled: list[Tensor] = [drafts[:0]]
    for _ in range(_MAX_ROUNDS):
        again = recode(drafts)
        pairs = zip(drafts.tolist(), again, strict=True)
        stays = torch.tensor([list(old) == list(new) for old, new in pairs], dtype=torch.bool)
        settled.append(drafts[stays])
        changing = [new for new, done in zip(again, stays.tolist(), strict=True) if not done]
        if not changing:
            break
        drafts = draw_tokens(allowed_ids, (len(changing), shape[1]), generator)
        for draft, new in zip(drafts, changing, strict=True):
            kept = [i for i in new if i in allowed][: shape[1]]
            draft[: len(kept)] = torch.tensor(kept, dtype=torch.int64)
    return torch.cat(settled)
