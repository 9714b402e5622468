"""Relaxed samples of tokens (Jang et al. 2017, arXiv 1611.01144)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.hf._gradients import wide_dtype


def check_relaxation(ids: Any, probs: Any, do_gumbel_softmax: bool, temp: float | None) -> None:
    """Refuse combinations of triggers and relaxation that have no meaning.

    Raises:
        ArgumentError: (an AssertionError and ValueError) If there is one.
    """
    if (ids is None) == (probs is None):
        raise ArgumentError(
            "give exactly one of candidate_trigger_ids and candidate_trigger_probs, got "
            f"{'neither' if ids is None else 'both'}."
        )
    if do_gumbel_softmax and (probs is None or temp is None or not temp > 0):
        raise ArgumentError(
            "do_gumbel_softmax takes logits as candidate_trigger_probs and a positive "
            f"gumbel_softmax_temp, got {temp!r}."
        )
    if temp is not None and not do_gumbel_softmax:
        raise ArgumentError(
            f"gumbel_softmax_temp={temp!r} has no effect without do_gumbel_softmax=True."
        )


def sample_gumbel_softmax(
    logits: Float[Tensor, "n_candidates trigger_pos d_vocab"],
    temp: float,
    generator: torch.Generator | None,
) -> Float[Tensor, "n_candidates trigger_pos d_vocab"]:
    """Return softmax((logits + noise) / temp), the noise drawn from a Gumbel distribution."""
    wide = logits.detach().to(wide_dtype(logits.dtype))
    # Drawn for all candidates at once, so that no batch size changes the sample.
    noise = torch.empty_like(wide).exponential_(generator=generator).log().neg()
    return ((wide + noise) / temp).softmax(dim=-1)
