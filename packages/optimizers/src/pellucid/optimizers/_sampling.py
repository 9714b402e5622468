"""Draws candidates around a trigger."""

import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.core import ArgumentError


def sample_substitutions(
    trigger_ids: Int64[Tensor, " trigger_pos"],
    substitutes: Int64[Tensor, "trigger_pos k"],
    *,
    n_candidates: int,
    n_replace: int,
    generator: torch.Generator,
) -> Int64[Tensor, "n_candidates trigger_pos"]:
    """Replace tokens at random positions by random ones of the tokens offered there.

    Args:
        trigger_ids: The trigger to start from.
        substitutes: The tokens offered for each position.
        n_candidates: How many candidates to draw.
        n_replace: How many distinct positions of a candidate to replace.
        generator: Source of randomness, on the CPU.

    Returns:
        Candidates that differ from the trigger in at most `n_replace` positions.
    """
    n_positions, k = substitutes.shape
    order = torch.rand(n_candidates, n_positions, generator=generator)
    positions = order.topk(n_replace, dim=1).indices
    ranks = torch.randint(k, (n_candidates, n_replace), generator=generator)
    candidates = trigger_ids.repeat(n_candidates, 1)
    return candidates.scatter_(1, positions, substitutes[positions, ranks])


def sample_blocks(
    trigger_ids: Int64[Tensor, " trigger_pos"],
    allowed_ids: Int64[Tensor, " n_allowed"],
    *,
    n_candidates: int,
    block_len: int,
    generator: torch.Generator,
) -> Int64[Tensor, "n_candidates trigger_pos"]:
    """Replace one block of neighbouring tokens, at a random place, by random tokens.

    Args:
        trigger_ids: The trigger to start from.
        allowed_ids: The tokens to draw from.
        n_candidates: How many candidates to draw.
        block_len: The number of neighbours to replace; at most the trigger's length.
        generator: Source of randomness, on the CPU.

    Returns:
        Candidates that differ from the trigger within one block each.
    """
    n_starts = len(trigger_ids) - block_len + 1
    starts = torch.randint(n_starts, (n_candidates, 1), generator=generator)
    drawn = draw_tokens(allowed_ids, (n_candidates, block_len), generator)
    positions = starts + torch.arange(block_len)
    return trigger_ids.repeat(n_candidates, 1).scatter_(1, positions, drawn)


def sample_insertions(
    trigger_ids: Int64[Tensor, " trigger_pos"],
    offered: Int64[Tensor, "trigger_pos k"],
    *,
    n_candidates: int,
    generator: torch.Generator,
) -> Int64[Tensor, "n_candidates _"]:
    """Insert a token at a random place, before, within or after a trigger.

    Args:
        trigger_ids: The trigger to start from.
        offered: The tokens offered for each position; one that is offered for a neighbour of the
            place is taken.
        n_candidates: How many candidates to draw.
        generator: Source of randomness, on the CPU.

    Returns:
        Candidates of one token more.
    """
    n_pos, k = offered.shape
    places = torch.randint(n_pos + 1, (n_candidates, 1), generator=generator)
    sides = torch.randint(2, (n_candidates, 1), generator=generator)
    neighbours = (places - sides).clamp(0, n_pos - 1)
    ranks = torch.randint(k, (n_candidates, 1), generator=generator)
    positions = torch.arange(n_pos + 1)
    sources = positions - (positions > places).long()
    candidates = trigger_ids[sources.clamp(max=n_pos - 1)]
    return candidates.scatter_(1, places, offered[neighbours, ranks])


def sample_deletions(
    trigger_ids: Int64[Tensor, " trigger_pos"], *, n_candidates: int, generator: torch.Generator
) -> Int64[Tensor, "_ _"]:
    """Leave out one token, at distinct random places.

    Args:
        trigger_ids: The trigger to start from.
        n_candidates: How many candidates to draw at most; there are no more than tokens.
        generator: Source of randomness, on the CPU.

    Returns:
        Candidates of one token less.
    """
    places = torch.randperm(len(trigger_ids), generator=generator)[:n_candidates, None]
    positions = torch.arange(len(trigger_ids) - 1)
    return trigger_ids[positions + (positions >= places).long()]


def substitute_at(
    trigger_ids: Int64[Tensor, " trigger_pos"], position: int, token_ids: Int64[Tensor, " k"]
) -> Int64[Tensor, "k trigger_pos"]:
    """Return the trigger with each of some tokens at one position."""
    candidates = trigger_ids.repeat(len(token_ids), 1)
    candidates[:, position] = token_ids
    return candidates


def random_single_flips(
    trigger: Int64[Tensor, " trigger_pos"],
    n_variations: int,
    valid_token_ids: Int64[Tensor, " n_allowed"] | None = None,
    *,
    vocab_size: int | None = None,
    generator: torch.Generator,
) -> Int64[Tensor, "n_candidates trigger_pos"]:
    """Return copies of a trigger: the first intact, the others with one random token each.

    Args:
        trigger: The trigger.
        n_variations: How many copies.
        valid_token_ids: The tokens to draw from.
        vocab_size: Draws from all ids below, instead.
        generator: Source of randomness, on the CPU.

    Raises:
        ArgumentError: If not exactly one of `valid_token_ids` and `vocab_size` is given.
    """
    if valid_token_ids is None:
        if vocab_size is None:
            raise ArgumentError("random_single_flips needs valid_token_ids or vocab_size.")
        valid_token_ids = torch.arange(vocab_size)
    elif vocab_size is not None:
        raise ArgumentError("random_single_flips takes valid_token_ids or vocab_size, not both.")
    copies = trigger.repeat(n_variations, 1)
    rows = torch.arange(1, n_variations)
    positions = torch.randint(len(trigger), (len(rows),), generator=generator)
    copies[rows, positions] = draw_tokens(valid_token_ids, (len(rows),), generator)
    return copies


def draw_tokens(
    allowed_ids: Int64[Tensor, " n_allowed"], shape: tuple[int, ...], generator: torch.Generator
) -> Int64[Tensor, "*shape"]:
    """Return independent, uniformly distributed tokens of a shape."""
    return allowed_ids[torch.randint(len(allowed_ids), shape, generator=generator)]
