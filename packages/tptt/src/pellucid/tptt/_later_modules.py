"""Modules under the names that tptt 0.12 gave them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from pellucid.core import ArgumentError
from pellucid.tptt._modes import RecurrentMode
from pellucid.tptt._share import HasMagWeight
from pellucid.tptt._virtual import expand_virtual_tokens

_PADDING_MODES = ("constant", "replicate")
_GATE_MODES = ("constant", "dynamic")
_GATE_TAPS = 16
_GATE_LOW, _GATE_HIGH = 0.1, 0.9


class VirtualTokenExpander(nn.Module):
    """Writes `n` virtual tokens for each token, with the values of `expand_virtual_tokens`.

    Args:
        num_heads: How many heads the tokens have.
        head_dim: How wide they are.
        n: Virtual tokens for each token.
        mode: "dt" or "derivative", "rot" or "rotative", "rdt" or "combined", or "cte".
        flip: Whether the terms of a difference begin with the token itself, not with the oldest.

    Raises:
        ModeError: (a ValueError) If there is no such mode, or n is below 1.
    """

    def __init__(
        self, num_heads: int, head_dim: int, n: int, mode: str = "rdt", flip: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.n = n
        self.mode = RecurrentMode(order=n, trick=mode).trick
        self.flip = flip

    def forward(
        self, x: Float[Tensor, "batch head pos d_head"], force: str | None = None
    ) -> Float[Tensor, "batch head pos n_updates d_head"]:
        """Return the virtual tokens of each token, beside one another.

        Args:
            x: Any floating dtype, which is that of the result.
            force: A mode for this call alone.

        Raises:
            ArgumentError: (a ValueError) If the heads are not those of the constructor.
            ModeError: (a ValueError) If there is no such mode.
        """
        if (x.shape[1], x.shape[3]) != (self.num_heads, self.head_dim):
            raise ArgumentError(
                f"the expander is for {self.num_heads} heads of width {self.head_dim}, got "
                f"{x.shape[1]} of {x.shape[3]}."
            )
        mode = self.mode if force is None else RecurrentMode(order=self.n, trick=force).trick
        if self.flip or mode in ("rotative", "cte"):
            return self._expand(x, mode)
        terms = self._expand(x, "derivative").flip(3)
        return terms if mode == "derivative" else (terms + self._expand(x, "rotative")) / 2

    def _expand(self, x: Tensor, mode: str) -> Tensor:
        return expand_virtual_tokens(x, self.n, mode).unflatten(2, (-1, self.n))


class CausalConv1d(nn.Module):
    """A convolution along positions that never looks ahead, and returns as many as it is given.

    Each output feature sees its share of the input features alone, as few as the two numbers allow:
    one each where there are equally many.

    Args:
        in_channels: Features that come in.
        out_channels: Features that come out.
        kernel_size: Positions that are looked at.
        dilation: How far they lie apart.
        offset: How far before the current position the last of them lies.
        padding_mode: What stands before the first position: `padding_value` ("constant"), or that
            position itself ("replicate").
        padding_value: See there.

    Attributes:
        conv1d: The convolution, which holds the weights.

    Raises:
        ArgumentError: (a ValueError) If a size or the mode has no meaning.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int = 1,
        offset: int = 0,
        padding_mode: str = "constant",
        padding_value: float = 0,
    ) -> None:
        super().__init__()
        sizes = (in_channels, out_channels, kernel_size, dilation)
        if min(sizes) < 1 or offset < 0:
            raise ArgumentError(
                "in_channels, out_channels, kernel_size and dilation must be 1 or more and offset "
                f"0 or more, since a causal convolution looks back, got {(*sizes, offset)!r}."
            )
        if padding_mode not in _PADDING_MODES:
            raise ArgumentError(
                f"padding_mode must be one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}."
            )
        self.offset = offset
        self.padding_mode = padding_mode
        self.padding_value = padding_value
        self.left_pad = (kernel_size - 1) * dilation + offset
        self.conv1d = nn.Conv1d(
            in_channels,
            out_channels,
            kernel_size,
            dilation=dilation,
            groups=math.gcd(in_channels, out_channels),
        )

    def forward(self, x: Float[Tensor, "batch _ pos"]) -> Float[Tensor, "batch _ pos"]:
        """Return the features of each position, made of it and of those before."""
        value = self.padding_value if self.padding_mode == "constant" else None
        padded = pad(x, (self.left_pad, 0), mode=self.padding_mode, value=value)
        return self.conv1d(padded[..., : padded.shape[-1] - self.offset])


class MemoryAsGate(HasMagWeight, nn.Module):
    """How much of linear attention each token gets (arXiv 2506.17671).

    `LiZAttention` mixes with a fixed weight; this is for mixtures of one's own.

    Args:
        hidden_dim: The width of the tokens; "dynamic" needs it.
        mode: "constant" for the same share everywhere, "dynamic" for one that a causal convolution
            over the last 16 tokens makes of them, from 0.1 to 0.9.
        mag_ratio: The share of "constant".

    Attributes:
        mag_weight: The share of "constant", which can be set.
        dynamic_gate: The convolution of "dynamic", else None.

    Raises:
        ArgumentError: (a ValueError) If there is no such mode or share, or a width is missing.
    """

    def __init__(
        self, hidden_dim: int | None = None, mode: str = "constant", mag_ratio: float = 0.5
    ) -> None:
        super().__init__()
        if mode not in _GATE_MODES:
            raise ArgumentError(f"mode must be one of {', '.join(_GATE_MODES)}, got {mode!r}.")
        if mode == "dynamic" and hidden_dim is None:
            raise ArgumentError("mode 'dynamic' needs the width of the tokens. Give hidden_dim.")
        self.hidden_dim = hidden_dim
        self.mode = mode
        self.mag_weight = mag_ratio
        self.dynamic_gate: CausalConv1d | None = None
        if mode == "dynamic" and hidden_dim is not None:
            self.dynamic_gate = CausalConv1d(hidden_dim, 1, _GATE_TAPS)

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos 1"]:
        """Return the share of each token."""
        if self.dynamic_gate is None:
            return hidden_states.new_full((*hidden_states.shape[:-1], 1), self.mag_weight)
        logits = self.dynamic_gate(hidden_states.mT).mT
        return _GATE_LOW + (_GATE_HIGH - _GATE_LOW) * torch.sigmoid(logits)
