"""The network of the family: what stands under a mask, and how much is missing before it."""

import math
from typing import Any

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.modules import AdaLNModulations, DDiT, modulate

LENGTH_TYPES = ("expectation", "distribution")
HEAD_TYPES = ("linear", "mlp")


class FlexMDMModel(DDiT):
    """A transformer that is told the time, with a second head for gaps.

    Its constructor is that of `DDiT`, and further

    Args:
        mask_idx: The id of the mask; kept for those who ask, the network treats it as any token.
        len_predict_type: Predict the number of missing tokens by its "expectation" or by its
            "distribution".
        len_head_type: Read it by one projection ("linear") or by a network of one layer ("mlp").
        max_gap: The largest number that a distribution is about, and the unit of expectations;
            `max_length` if None.

    Raises:
        UnknownNameError: A type is unknown.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        *,
        mask_idx: int | None = None,
        len_predict_type: str = "distribution",
        len_head_type: str = "linear",
        max_gap: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(num_embeddings, d_model, num_layers, nhead, **settings)
        if len_predict_type not in LENGTH_TYPES:
            raise UnknownNameError("len_predict_type", len_predict_type, LENGTH_TYPES)
        self.mask_idx, self.len_predict_type = mask_idx, len_predict_type
        self.length_head = GapHead(
            d_model,
            self.d_cond,
            self.max_length if max_gap is None else max_gap,
            is_distribution=len_predict_type == "distribution",
            head_type=len_head_type,
        )

    def forward(
        self,
        x_t: Integer[Tensor, "batch pos"],
        t: Float[Tensor, " batch"],
        attention_mask: Bool[Tensor, "batch pos"] | Integer[Tensor, "batch pos"] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> tuple[Float[Tensor, "*shape d_vocab"], Float[Tensor, "..."]]:
        """Say what stands at each position, and how much is missing to the left of it.

        Args:
            x_t: Token ids.
            t: The time of each row, from 0 (nothing) to 1 (text).
            attention_mask: (batch, pos), False on padding.
            positions: Where tokens stand; counted over what is no padding if None.
            where: The positions whose logits are wanted; all if None.

        Returns:
            Logits of tokens, (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given;
            and gaps of all positions: expectations, (batch, pos), or logits of the numbers from 0
            to `max_gap`, (batch, pos, n_classes).
        """
        conditioning = self.timestep(t)
        hidden = self.encode(x_t, attention_mask, positions, conditioning)
        logits = self.read_logits(hidden, conditioning, where=where)
        return logits, self.length_head(hidden, conditioning)


class GapHead(nn.Module):
    """Read how many tokens are missing at each position from the residual stream.

    The last projection starts at zero: a new head expects one token everywhere, or finds all
    numbers equally likely.

    Args:
        d_model: Width of the residual stream.
        d_cond: Width of the conditioning vectors.
        max_gap: The largest number of a distribution; the unit of expectations.
        is_distribution: Return logits of the numbers from 0 to `max_gap`, not an expectation.
        head_type: "linear" or "mlp".
        layer_norm_eps: Added to the variance in the norm.

    Raises:
        ArgumentError: `max_gap` is below 1.
        UnknownNameError: The type of the head is unknown.
    """

    def __init__(
        self,
        d_model: int,
        d_cond: int,
        max_gap: int,
        *,
        is_distribution: bool,
        head_type: str = "linear",
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if max_gap < 1:
            message = f"max_gap is {max_gap!r}; at least one token can be missing"
            raise ArgumentError(message)
        if head_type not in HEAD_TYPES:
            raise UnknownNameError("len_head_type", head_type, HEAD_TYPES)
        self.is_distribution, self.max_gap = is_distribution, max_gap
        self.norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=False)
        self.modulations = AdaLNModulations(d_cond, d_model, 2)
        self.linear_in = nn.Linear(d_model, d_model) if head_type == "mlp" else None
        self.linear_out = nn.Linear(d_model, max_gap + 1 if is_distribution else 1)
        if self.linear_in is not None:
            nn.init.normal_(self.linear_in.weight, std=d_model**-0.5)
            nn.init.zeros_(self.linear_in.bias)
        nn.init.zeros_(self.linear_out.weight)
        start = 0.0 if is_distribution else math.log(math.expm1(1 / max_gap))
        nn.init.constant_(self.linear_out.bias, start)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], conditioning: Float[Tensor, "batch d_cond"]
    ) -> Float[Tensor, "..."]:
        """Return expectations, (batch, pos), or logits, (batch, pos, n_classes)."""
        shift, scale = self.modulations(conditioning)
        hidden = modulate(self.norm(x), shift, scale)
        if self.linear_in is not None:
            hidden = functional.gelu(self.linear_in(hidden))
        out = self.linear_out(hidden)
        return out if self.is_distribution else functional.softplus(out[..., 0]) * self.max_gap
