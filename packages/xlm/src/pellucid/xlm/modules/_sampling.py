"""Drawing tokens from logits, each call with a generator of its own."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError


def sample_categorical(
    probs: Float[Tensor, "*shape d_vocab"],
    *,
    generator: torch.Generator | None = None,
    uniforms: Float[Tensor, "*shape"] | None = None,
) -> Int64[Tensor, "*shape"]:
    """Draw from distributions, by the inverse of their sums.

    One uniform number decides one token, so that a row's draw does not depend on which other rows
    are drawn with it. What has probability zero is never drawn.

    Args:
        probs: Non-negative; they need not sum to one.
        generator: Where to draw from; torch's own if None.
        uniforms: Numbers from [0, 1) to use instead of drawing.

    Raises:
        ArgumentError: A distribution is zero everywhere, or not finite.
    """
    sums = probs.double().cumsum(dim=-1)
    total = sums[..., -1:]
    if not bool(((total > 0) & total.isfinite()).all()):
        message = (
            "a distribution sums to zero or is not finite; leave at least one token allowed, "
            "and look for infinite logits"
        )
        raise ArgumentError(message)
    if uniforms is None:
        uniforms = torch.rand(
            probs.shape[:-1], generator=generator, device=probs.device, dtype=torch.float64
        )
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniforms.double()[..., None] * total, below_total)
    return torch.searchsorted(sums, threshold, right=True).squeeze(-1)


def keep_top_k(logits: Float[Tensor, "*shape d_vocab"], k: int) -> Float[Tensor, "*shape d_vocab"]:
    """Set all but the k largest logits to minus infinity; what equals the k-th stays.

    Raises:
        ArgumentError: k is below 1.
    """
    if k < 1:
        message = f"top_k is {k!r}; keep at least one token"
        raise ArgumentError(message)
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(
    logits: Float[Tensor, "*shape d_vocab"], p: float
) -> Float[Tensor, "*shape d_vocab"]:
    """Keep the fewest tokens that together have probability p, set others to minus infinity.

    This is nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751); the best token always stays.

    Raises:
        ArgumentError: p is not in (0, 1].
    """
    if not 0 < p <= 1:
        message = f"top_p is {p!r}; give a probability above 0 and at most 1"
        raise ArgumentError(message)
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.float().softmax(dim=-1)
    is_enough_before = probs.cumsum(dim=-1) - probs >= p
    is_enough_before[..., 0] = False
    dropped = torch.zeros_like(is_enough_before).scatter(-1, order, is_enough_before)
    return logits.masked_fill(dropped, -torch.inf)


def sample_from_logits(
    logits: Float[Tensor, "*shape d_vocab"],
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    uniforms: Float[Tensor, "*shape"] | None = None,
) -> Int64[Tensor, "*shape"]:
    """Draw tokens; the best ones at temperature 0.

    Args:
        logits: Minus infinity for what must not be drawn.
        temperature: Divides the logits.
        generator: See `sample_categorical`.
        uniforms: See `sample_categorical`.

    Raises:
        ArgumentError: The temperature is negative.
    """
    if temperature < 0:
        message = f"temperature is {temperature!r}; give 0 for the best token, or a positive number"
        raise ArgumentError(message)
    if temperature == 0:
        return logits.argmax(dim=-1)
    probs = (logits.float() / temperature).softmax(dim=-1)
    return sample_categorical(probs, generator=generator, uniforms=uniforms)


def sample_from_top_k(
    k: int, logits: Float[Tensor, "*shape d_vocab"], *, generator: torch.Generator | None = None
) -> Int64[Tensor, "*shape"]:
    """Draw one of the k best tokens."""
    return sample_from_logits(keep_top_k(logits, k), generator=generator)


def sample_from_top_p(
    p: float, logits: Float[Tensor, "*shape d_vocab"], *, generator: torch.Generator | None = None
) -> Int64[Tensor, "*shape"]:
    """Draw one of the fewest tokens that together have probability p."""
    return sample_from_logits(keep_top_p(logits, p), generator=generator)


def add_gumbel_noise(
    logits: Float[Tensor, "*shape"], *, temperature: float = 1.0, generator: torch.Generator | None
) -> Float[Tensor, "*shape"]:
    """Perturb logits so that the largest is a draw from their softmax at that temperature."""
    if temperature == 0:
        return logits
    uniforms = torch.rand(
        logits.shape, generator=generator, device=logits.device, dtype=torch.float64
    )
    tiny = torch.finfo(torch.float64).tiny
    noise = -(-uniforms.clamp(min=tiny).log()).clamp(min=tiny).log()
    return logits + (temperature * noise).to(logits.dtype)


def masked_mean(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, dim: int | None = None
) -> Float[Tensor, "..."]:
    """Average where the mask is set; zero where it is set nowhere.

    What stands at other places is never read, be it infinite or not a number.
    """
    kept = values.where(mask, 0)
    if dim is None:
        return kept.sum() / mask.sum().clamp(min=1)
    return kept.sum(dim=dim) / mask.sum(dim=dim).clamp(min=1)


def sum_rows(
    values: Float[Tensor, " picked_pos"], where: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Sum up, row by row, what belongs to some positions.

    Args:
        values: One for each position, in reading order.
        where: The positions.
    """
    return values.new_zeros(len(where)).index_add(0, where.nonzero()[:, 0], values)


def stratified_uniforms(
    n_rows: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, " batch"]:
    """Draw a number from [0, 1) for each row, each from a part of its own, the parts in any order.

    Each is uniform, and together they are spread evenly, so that their mean varies little.

    Args:
        n_rows: How many parts of equal length there are.
        generator: Where to draw from; torch's own if None.
        device: Of the result, and of the generator.
    """
    uniforms = torch.rand(n_rows, generator=generator, device=device)
    parts = torch.randperm(n_rows, generator=generator, device=device)
    return (parts + uniforms) / n_rows


def select_random_indices(
    allowed: Bool[Tensor, "batch pos"],
    counts: Int64[Tensor, " batch"],
    *,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch pos"]:
    """Choose as many of the allowed positions of each row as it is asked for, uniformly.

    Args:
        allowed: What may be chosen.
        counts: How many; all that are allowed where there are not so many.
        generator: Where to draw from; torch's own if None.
    """
    scores = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    return select_best(scores, allowed, counts)


def select_best(
    scores: Float[Tensor, "batch pos"],
    allowed: Bool[Tensor, "batch pos"],
    counts: Int64[Tensor, " batch"],
) -> Bool[Tensor, "batch pos"]:
    """Choose as many of the allowed positions of each row as it is asked for, best first.

    Of equal scores, the leftmost counts as the best.
    """
    order = scores.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    rank_of = torch.empty_like(order).scatter_(1, order, ranks)
    return (rank_of < counts[:, None]) & allowed
