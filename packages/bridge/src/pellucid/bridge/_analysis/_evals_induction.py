"""How well a model repeats what it has seen once: random tokens, twice."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InductionResult:
    """Losses on random tokens and on their repetition, in nats.

    Attributes:
        first_loss: Mean over the first half, which nobody can predict.
        second_loss: Mean over the second half, which repeats the first.
        accuracy: How often the likeliest token is the right one in the second half.
    """

    first_loss: float
    second_loss: float
    accuracy: float


def repeat_tokens(
    d_vocab: int,
    *,
    batch_size: int = 4,
    subseq_len: int = 64,
    bos: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch pos"]:
    """Return random tokens, each row twice in a row, behind a first token if it is given.

    Args:
        d_vocab: Tokens are drawn from 0 to before this.
        batch_size: How many rows.
        subseq_len: How many tokens are repeated.
        bos: A first token.
        generator: Decides which; one with seed 0 if None.
    """
    if d_vocab < 2 or batch_size < 1 or subseq_len < 1:
        raise ArgumentError("d_vocab must be at least 2, batch_size and subseq_len at least 1.")
    chooser = generator or torch.Generator().manual_seed(0)
    drawn = torch.randint(d_vocab, (batch_size, subseq_len), generator=chooser)
    twice = drawn.repeat(1, 2)
    if bos is None:
        return twice
    return torch.cat([torch.full((batch_size, 1), bos), twice], dim=1)


def induction_loss(
    model: Any,
    *,
    batch_size: int = 4,
    subseq_len: int = 64,
    bos: int | None = None,
    generator: torch.Generator | None = None,
) -> InductionResult:
    """Return how well a model predicts random tokens that it sees a second time.

    Args:
        model: A bridge.
        batch_size: How many rows.
        subseq_len: How many tokens are repeated; the rows are twice as long.
        bos: A first token, which models that were trained with one need.
        generator: Decides which tokens; one with seed 0 if None.
    """
    tokens = repeat_tokens(
        model.cfg.d_vocab, batch_size=batch_size, subseq_len=subseq_len, bos=bos,
        generator=generator,
    ).to(model.device)  # fmt: skip
    with torch.no_grad():
        logits, losses = model(tokens, return_type="both", loss_per_token=True)
    hits = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    # The first token of the repetition cannot be told, the one after it can.
    start = tokens.shape[1] - subseq_len
    return InductionResult(
        first_loss=float(losses[:, : start - 1].mean()),
        second_loss=float(losses[:, start:].mean()) if subseq_len > 1 else float("nan"),
        accuracy=float(hits[:, start:].float().mean()) if subseq_len > 1 else float("nan"),
    )
