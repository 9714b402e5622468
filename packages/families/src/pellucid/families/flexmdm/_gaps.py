"""What is said about the number of tokens that are missing in a gap."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError

LEAST = 1e-6
"""The least number of missing tokens that is expected anywhere."""


def expected_gaps(lengths: Float[Tensor, "..."], *, is_distribution: bool) -> Float[Tensor, "..."]:
    """Return how many tokens are expected to be missing in each gap.

    Args:
        lengths: What a network says: expectations, or logits of the numbers on a last axis.
        is_distribution: Which of the two.
    """
    if not is_distribution:
        return lengths.clamp(min=LEAST)
    probs = lengths.softmax(dim=-1)
    numbers = torch.arange(lengths.shape[-1], device=lengths.device, dtype=lengths.dtype)
    return (probs @ numbers).clamp(min=LEAST)


def gap_loss(
    lengths: Float[Tensor, "..."],
    gaps: Int64[Tensor, "batch pos"],
    where: Bool[Tensor, "batch pos"],
    *,
    is_distribution: bool,
) -> Float[Tensor, " picked_pos"]:
    """Return the loss of each gap, 0 if what is said is true and certain.

    For expectations it is the Bregman divergence of the Poisson distribution, whose minimiser is
    the conditional expectation; for distributions the cross-entropy, in nats.
    """
    said, true = lengths[where].float(), gaps[where]
    if is_distribution:
        return functional.cross_entropy(said, true.clamp(max=said.shape[-1] - 1), reduction="none")
    number, said = true.to(said.dtype), said.clamp(min=LEAST)
    return said - number + torch.xlogy(number, number) - number * said.log()


def check_gap_type(model: Any, setting: str, value: str | None) -> None:
    """Make sure that a network predicts gaps as was configured.

    Args:
        model: The network.
        setting: What the user knows the value as.
        value: "expectation" or "distribution"; nothing is checked if None.

    Raises:
        ArgumentError: The network predicts something else.
    """
    said = getattr(model, "len_predict_type", None)
    if value is not None and value != said:
        message = (
            f"{setting}={value!r}, and the model predicts {said!r}; set model.len_predict_type to "
            "the same"
        )
        raise ArgumentError(message)
