"""How a response begins, whatever tokens its model is made of."""

import dataclasses
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import boundary
from pellucid.losses._text import TextBasedLoss


@dataclasses.dataclass
class TargetStartNLLLoss(TextBasedLoss):
    """How unlikely a response is to begin as the target does: a negative log-likelihood, in nats.

    Every listed token counts whose text, space before it aside, the target begins with. So nothing
    need be known of the model's tokenizer, which an API does not tell. If none is listed, the start
    is taken to be as likely as the least likely token that is: it can be no likelier.
    """

    require_first_token_logprobs = True

    @boundary
    def __call__(
        self,
        response_first_token_logprobs: list[dict[str, float] | None],
        target_response_strs: str,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            response_first_token_logprobs: For each sample, the log-probabilities (nats) of the
                likeliest first tokens by their text, or None where there is no answer.
            target_response_strs: The target response, shared by all samples.

        Returns:
            Float32, of shape (batch,), on the CPU; +inf where there is no answer.
        """
        target = target_response_strs.lstrip()
        nll = [_start_nll(row or {}, target) for row in response_first_token_logprobs]
        return torch.tensor(nll, dtype=torch.float32)


def _start_nll(logprobs: Mapping[str, float], target: str) -> float:
    if not logprobs:
        return math.inf
    texts = ((text.lstrip(), value) for text, value in logprobs.items())
    starts = [value for text, value in texts if text and target.startswith(text)]
    if not starts:
        return -min(logprobs.values())
    highest = max(starts)
    if highest == -math.inf:
        return math.inf
    return -(highest + math.log(sum(math.exp(value - highest) for value in starts)))
