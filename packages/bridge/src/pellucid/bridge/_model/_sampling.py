"""From logits to the next tokens."""

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from pellucid.core import ArgumentError, boundary


@boundary
def sample_logits(
    final_logits: Float[Tensor, "batch d_vocab"],
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    tokens: Int[Tensor, "batch pos"] | None = None,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " batch"]:
    """Draw one token for each row.

    In this order: the penalty on repetition, the temperature, the penalty on frequency, `top_k` and
    then `top_p` among what is left.

    Args:
        final_logits: Float, of shape (batch, d_vocab).
        top_k: How many of the likeliest tokens to draw among.
        top_p: Draw among the likeliest tokens that together have this probability; the one that
            crosses it is still in.
        temperature: Divides the logits; 0 takes the likeliest token.
        freq_penalty: Taken from a token's logit for each time that it has occurred.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that have
            occurred (Keskar et al. 2019).
        tokens: What has occurred, of shape (batch, pos); needed for the penalties.
        generator: Where randomness comes from; torch's global one if None.

    Raises:
        ArgumentError: (a ValueError and an AssertionError) If a number is out of its range, or a
            penalty is asked for without tokens.
    """
    check_sampling(
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        freq_penalty=freq_penalty,
        repetition_penalty=repetition_penalty,
    )
    if tokens is None and (freq_penalty or repetition_penalty != 1.0):
        raise ArgumentError("penalties need tokens=, what has occurred so far.")
    logits = final_logits.to(torch.promote_types(final_logits.dtype, torch.float32))
    if repetition_penalty != 1.0 and tokens is not None:
        held = logits.gather(-1, tokens)
        held = torch.where(held > 0, held / repetition_penalty, held * repetition_penalty)
        logits = logits.scatter(-1, tokens, held)
    if temperature == 0.0:
        return logits.argmax(-1)
    logits = logits / temperature
    if freq_penalty and tokens is not None:
        ones = torch.ones_like(tokens, dtype=logits.dtype)
        logits = logits - freq_penalty * torch.zeros_like(logits).scatter_add(-1, tokens, ones)
    if top_k is not None:
        lowest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    if top_p is not None and top_p < 1.0:
        logits = _keep_nucleus(logits, top_p)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def _keep_nucleus(logits: Tensor, top_p: float) -> Tensor:
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    # What is before a token decides, so that the one that crosses the line stays in.
    is_outside = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(
        torch.zeros_like(is_outside).scatter(-1, places, is_outside), -torch.inf
    )


def check_sampling(
    *,
    top_k: int | None,
    top_p: float | None,
    temperature: float,
    freq_penalty: float,
    repetition_penalty: float,
) -> None:
    """Refuse numbers out of their ranges.

    Raises:
        ArgumentError: (a ValueError and an AssertionError) If one is.
    """
    if top_k is not None and top_k < 1:
        raise ArgumentError(f"top_k={top_k} must be at least 1, or None for no limit.")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ArgumentError(f"top_p={top_p} must lie in (0, 1], or be None for no limit.")
    if temperature < 0.0:
        raise ArgumentError(f"temperature={temperature} must be at least 0; 0 is greedy.")
    if freq_penalty < 0.0:
        raise ArgumentError(f"freq_penalty={freq_penalty} must be at least 0.")
    if repetition_penalty <= 0.0:
        raise ArgumentError(
            f"repetition_penalty={repetition_penalty} must be more than 0; 1 is none."
        )
