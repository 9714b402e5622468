"""The average over the last few tokens that gates are made of."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from pellucid.core import ArgumentError

_MODES = ("replicate", "constant")

Window = tuple[Float[Tensor, "batch 1 d_model"], ...]
"""Tokens one after the other, each by itself: another comes in without the others being copied."""


class CausalAvgPool1d(nn.Module):
    """The mean of the tokens that lie `offsets` positions before, for each feature.

    Args:
        output_size: How many features come out; neighbours are averaged where there are more.
        offsets: How far back to look, 0 being the token itself.
        mode: What stands before the first token: itself ("replicate") or zeros ("constant").

    Raises:
        ArgumentError: (a ValueError) If an offset looks ahead, or there is no such mode.
    """

    def __init__(
        self, output_size: int, offsets: Sequence[int] = (0, 1, 2), mode: str = "replicate"
    ) -> None:
        super().__init__()
        if not offsets or min(offsets) < 0:
            raise ArgumentError(
                f"offsets must be 0 or more, since they look back, got {tuple(offsets)!r}."
            )
        if mode not in _MODES:
            raise ArgumentError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}.")
        self.output_size = output_size
        self.offsets = tuple(offsets)
        self.mode = mode

    @property
    def reach(self) -> int:
        """How many tokens before the current one are looked at."""
        return max(self.offsets)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        before: Float[Tensor, "batch lag d_model"] | None = None,
    ) -> Float[Tensor, "batch pos d_pooled"]:
        """Return the mean for each position.

        Args:
            x: Any floating dtype.
            before: The tokens before the first, `reach` of them or more; see `mode` when omitted.
        """
        if before is None:
            before = self.begin(x[:, :1])
        known, pos = before.shape[1], x.shape[1]
        whole = torch.cat((before, x), dim=1)
        lagged = [whole[:, known - offset : known - offset + pos] for offset in self.offsets]
        mean = functools.reduce(torch.add, lagged) / len(lagged)
        if mean.shape[-1] == self.output_size:
            return mean
        return adaptive_avg_pool1d(mean, self.output_size)

    def mean_of_last(self, tokens: Window) -> Float[Tensor, "batch 1 d_pooled"]:
        """Return the mean for the last token alone.

        Args:
            tokens: The tokens up to this one, `reach` and one of them.
        """
        newest = len(tokens) - 1
        mean = tokens[newest - self.offsets[0]]
        # step by step: fewer calls than a sum and a division
        for count, offset in enumerate(self.offsets[1:], start=2):
            mean = torch.lerp(mean, tokens[newest - offset], 1 / count)
        if mean.shape[-1] == self.output_size:
            return mean
        return adaptive_avg_pool1d(mean, self.output_size)

    def begin(
        self, first: Float[Tensor, "batch lag d_model"]
    ) -> Float[Tensor, "batch lag_kept d_model"]:
        """Return what stands before the first token, given that token."""
        start = first.expand(-1, self.reach, -1) if self.reach else first[:, :0]
        return start if self.mode == "replicate" else torch.zeros_like(start)
