"""Losses over what a model says, which need no gradients and no access to its insides."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, BaseLoss, Messages, boundary


class TextBasedLoss(BaseLoss):
    """Reads text or what came with it; has no gradient."""

    is_differentiable = False


@dataclasses.dataclass
class FirstTokenNLLLoss(TextBasedLoss):
    """How unlikely a response is to begin with a token: its negative log-likelihood, in nats.

    The objective of random search through an API (Andriushchenko et al. 2024, arXiv 2404.02151).
    The token counts with and without a space before it, whichever is likelier.

    Args:
        target_token: The text of the token.
        missing_logprob_value: The log-probability of a token that is not among the likeliest, and
            of any token where a request failed.

    Raises:
        ArgumentError: (a ValueError) If the token is empty.
    """

    require_first_token_logprobs = True

    target_token: str = "Sure"
    missing_logprob_value: float = float("-inf")

    def __post_init__(self) -> None:
        if not self.target_token:
            raise ArgumentError("target_token must hold at least one character, got ''.")

    @boundary
    def __call__(
        self, response_first_token_logprobs: list[dict[str, float] | None]
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            response_first_token_logprobs: For each sample, the log-probabilities (nats) of the
                likeliest first tokens by their text, or None where there is no answer.

        Returns:
            Float32, of shape (batch,), on the CPU; +inf for a missing token, unless told otherwise.
        """
        nll = [-self._best_logprob(logprobs or {}) for logprobs in response_first_token_logprobs]
        return torch.tensor(nll, dtype=torch.float32)

    def _best_logprob(self, logprobs: Mapping[str, float]) -> float:
        spellings = (self.target_token, f" {self.target_token}")
        return max(logprobs.get(text, self.missing_logprob_value) for text in spellings)


def flatten_text(text: str | Messages) -> str:
    """Return a text as it is, and of a conversation the messages' contents, one below the other."""
    if isinstance(text, str):
        return text
    return "\n".join(message["content"] for message in text)
