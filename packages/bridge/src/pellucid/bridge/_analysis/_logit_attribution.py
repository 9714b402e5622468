"""Direct logit attribution: which parts of a model write a token's logit into the stream."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError

_PARTS = ("layers", "heads", "neurons", "streams")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitAttribution:
    """What each part of a model adds to a logit, or to a difference of logits.

    Attributes:
        labels: The parts.
        values: Of shape (part, ...), with the axes of batch and positions that there are.
    """

    labels: tuple[str, ...]
    values: Float[Tensor, "row *rest"]

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """Return the k parts that add most by magnitude, on average over the other axes."""
        means = self.values.flatten(1).mean(-1) if self.values.ndim > 1 else self.values
        best = means.abs().topk(min(k, len(self.labels))).indices.tolist()
        return [(self.labels[place], float(means[place])) for place in best]


def direct_logit_attribution(
    cache: Any,
    tokens: Any,
    incorrect_tokens: Any = None,
    *,
    parts: str = "heads",
    pos_slice: Any = None,
) -> LogitAttribution:
    """Return what each part of a model adds to a token's logit by way of the stream alone.

    The final norm's scale is that of the run, so that the parts sum; see
    `ActivationCache.logit_attrs`.

    Args:
        cache: Of a run.
        tokens: The token: a text, an id, or a tensor of ids that broadcasts to ([batch], pos).
        incorrect_tokens: The token whose logit is subtracted, of the same shape.
        parts: "layers" for attention and MLPs, "heads" for heads and MLPs, "neurons" for heads and
            neurons; "streams" for the whole stream before each block, which do not sum.
        pos_slice: Which positions.

    Raises:
        ArgumentError: (a ValueError) If the kind of parts is unknown.
        ArchitectureError: (a ValueError) If the stream or the logits are no sum of known parts.
    """
    if parts not in _PARTS:
        raise ArgumentError(f"parts must be one of {', '.join(map(repr, _PARTS))}, got {parts!r}.")
    with torch.no_grad():
        if parts == "streams":
            stack, labels = cache.accumulated_resid(pos_slice=pos_slice, return_labels=True)
        elif parts == "layers":
            stack, labels = cache.decompose_resid(pos_slice=pos_slice, return_labels=True)
        else:
            stack, labels = cache.get_full_resid_decomposition(
                expand_neurons=parts == "neurons", pos_slice=pos_slice, return_labels=True
            )
        values = cache.logit_attrs(stack, tokens, incorrect_tokens, pos_slice=pos_slice)
    return LogitAttribution(labels=tuple(labels), values=values)
