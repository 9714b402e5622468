"""Which token is written at a position."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.modules import keep_top_k, keep_top_p, sample_from_logits

SAMPLING_METHODS = ("sample", "sample_top_k", "sample_top_p")


@dataclass(frozen=True, kw_only=True)
class TokenPolicy:
    """How a token is drawn from logits.

    Attributes:
        temperature: Divides logits; 0 takes the best token.
        top_k: Draw from the k best tokens.
        top_p: Draw from the fewest tokens that together have probability p; not with `top_k`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            message = (
                f"temperature is {self.temperature!r}; give 0 for the best token, or a positive "
                "number"
            )
            raise ArgumentError(message)
        if self.top_k is not None and self.top_p is not None:
            message = (
                f"top_k={self.top_k!r} and top_p={self.top_p!r} exclude each other; set one of them"
            )
            raise ArgumentError(message)
        self.keep(torch.zeros(1, 1))  # so that a wrong k or p is known now

    @classmethod
    def of_method(
        cls, method: str, *, top: int, p: float, temperature: float = 1.0
    ) -> "TokenPolicy":
        """Return the policy of a sampling method.

        Args:
            method: "sample", "sample_top_k" or "sample_top_p".
            top: The k of top-k.
            p: The p of top-p.
            temperature: Divides logits.

        Raises:
            UnknownNameError: There is no such method.
            ArgumentError: A number that the method reads is out of its range.
        """
        if method not in SAMPLING_METHODS:
            raise UnknownNameError("sampling method", method, SAMPLING_METHODS)
        return cls(
            temperature=temperature,
            top_k=top if method == "sample_top_k" else None,
            top_p=p if method == "sample_top_p" else None,
        )

    def keep(self, logits: Float[Tensor, "*shape d_vocab"]) -> Float[Tensor, "*shape d_vocab"]:
        """Return the logits with minus infinity for tokens that are not among the best."""
        if self.top_k is not None:
            return keep_top_k(logits, self.top_k)
        return logits if self.top_p is None else keep_top_p(logits, self.top_p)

    def draw(
        self,
        logits: Float[Tensor, "*shape d_vocab"],
        uniforms: Float64[Tensor, "*shape"] | None,
    ) -> Int64[Tensor, "*shape"]:
        """Draw a token from each distribution.

        Args:
            logits: Minus infinity for what must not be drawn.
            uniforms: A number from [0, 1) for each, as `RowStreams.uniforms` gives; not read at
                temperature 0.
        """
        return sample_from_logits(
            self.keep(logits), temperature=self.temperature, uniforms=uniforms
        )
