"""How much text is missing at a position, as a number."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.xlm.modules._conditioning import AdaLNModulations, modulate


class ScalarLengthHead(nn.Module):
    """Read a length that is expected at each position, a number above 0, from the residual stream.

    The last projection starts at zero, so that a new head expects `start` everywhere.

    Args:
        d_model: Width of the residual stream.
        d_cond: Width of the conditioning vectors.
        max_length: The unit of what the network computes: the longest text, in tokens.
        start: What a new head expects, tokens.
        layer_norm_eps: Added to the variance in the norm.

    Raises:
        ArgumentError: `start` or `max_length` is not above 0.
    """

    def __init__(
        self,
        d_model: int,
        d_cond: int,
        max_length: float,
        *,
        start: float = 1.0,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if not (start > 0 and max_length > 0):
            message = f"start={start!r} and max_length={max_length!r} must be above 0"
            raise ArgumentError(message)
        self.max_length = max_length
        self.norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=False)
        self.modulations = AdaLNModulations(d_cond, d_model, 2)
        self.linear_in = nn.Linear(d_model, d_model)
        self.linear_out = nn.Linear(d_model, 1)
        nn.init.normal_(self.linear_in.weight, std=d_model**-0.5)
        nn.init.zeros_(self.linear_in.bias)
        nn.init.zeros_(self.linear_out.weight)
        nn.init.constant_(self.linear_out.bias, math.log(math.expm1(start / max_length)))

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], conditioning: Float[Tensor, "batch d_cond"]
    ) -> Float[Tensor, "batch pos"]:
        """Return the length expected at each position, tokens."""
        shift, scale = self.modulations(conditioning)
        hidden = functional.gelu(self.linear_in(modulate(self.norm(x), shift, scale)))
        return functional.softplus(self.linear_out(hidden)[..., 0]) * self.max_length
