"""What a layer is told about the time: a vector per row, and the scales and shifts made of it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pellucid.core import ArgumentError

_LONGEST_PERIOD = 10_000.0
_TIME_SCALE = 1_000.0


class TimestepEmbedder(nn.Module):
    """Turn times into vectors: waves of many lengths, and a small network that reads them.

    Times run from 0 to 1 and are multiplied by 1000, so that the shortest waves tell neighbouring
    times apart and the longest one tells the beginning from the end.

    Args:
        d_cond: Width of the vectors.
        frequencies: How many waves, half of them cosines; an even number.

    Raises:
        ArgumentError: The number of waves is odd or below 2.
    """

    rates: Tensor

    def __init__(self, d_cond: int, frequencies: int = 256) -> None:
        super().__init__()
        if frequencies < 2 or frequencies % 2:
            message = (
                f"frequencies is {frequencies!r}; cosines and sines are paired, so give an "
                "even number"
            )
            raise ArgumentError(message)
        half = frequencies // 2
        rates = torch.exp(-math.log(_LONGEST_PERIOD) * torch.arange(half) / half)
        self.register_buffer("rates", rates * _TIME_SCALE, persistent=False)
        self.linear_in = nn.Linear(frequencies, d_cond)
        self.linear_out = nn.Linear(d_cond, d_cond)
        for linear in (self.linear_in, self.linear_out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch d_cond"]:
        """Return a vector per time, after its last non-linearity."""
        angles = t[:, None].to(self.rates.dtype) * self.rates
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        hidden = functional.silu(self.linear_in(waves.to(self.linear_in.weight.dtype)))
        return functional.silu(self.linear_out(hidden))


class AdaLNModulations(nn.Module):
    """Make the shifts, scales and gates of a layer out of what it is conditioned on.

    All of them start at zero (Peebles & Xie 2023, arXiv:2212.09748): nothing is shifted or scaled,
    and a gated branch adds nothing.

    Args:
        d_cond: Width of the conditioning vectors.
        d_model: Width of the residual stream.
        n_modulations: How many vectors of width `d_model` are made.
    """

    def __init__(self, d_cond: int, d_model: int, n_modulations: int = 6) -> None:
        super().__init__()
        self.n_modulations = n_modulations
        self.linear = nn.Linear(d_cond, n_modulations * d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, conditioning: Float[Tensor, "batch d_cond"]
    ) -> tuple[Float[Tensor, "batch 1 d_model"], ...]:
        """Return the vectors, the same for all positions of a row."""
        return self.linear(conditioning)[:, None].chunk(self.n_modulations, dim=-1)


def modulate(
    x: Float[Tensor, "*shape d_model"],
    shift: Float[Tensor, "..."],
    scale: Float[Tensor, "..."],
) -> Float[Tensor, "*shape d_model"]:
    """Scale and shift what was normalised; neither at zero."""
    return torch.addcmul(shift, x, 1 + scale)
