"""Finds heads that attend as a pattern says: to the previous token, to duplicates, by induction."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.bridge._analysis._patch_runs import read_tokens
from pellucid.core import ArgumentError

_MEASURES = ("mul", "abs")
HEAD_NAMES = ("previous_token_head", "duplicate_token_head", "induction_head")
"""Patterns that have names."""


def get_previous_token_head_detection_pattern(
    tokens: Int[Tensor, " pos"],
) -> Float[Tensor, "query_pos key_pos"]:
    """Return the pattern of a head that attends to the position before."""
    return torch.diag(torch.ones(len(tokens) - 1, device=tokens.device), diagonal=-1)


def get_duplicate_token_head_detection_pattern(
    tokens: Int[Tensor, " pos"],
) -> Float[Tensor, "query_pos key_pos"]:
    """Return the pattern of a head that attends to earlier positions with the same token."""
    return (tokens[:, None] == tokens[None, :]).float().tril(-1)


def get_induction_head_detection_pattern(
    tokens: Int[Tensor, " pos"],
) -> Float[Tensor, "query_pos key_pos"]:
    """Return the pattern of a head that attends to what has followed the same token before."""
    same = get_duplicate_token_head_detection_pattern(tokens)
    shifted = torch.zeros_like(same)
    shifted[:, 1:] = same[:, :-1]
    return shifted.tril()


_PATTERNS = dict(
    zip(
        HEAD_NAMES,
        (
            get_previous_token_head_detection_pattern,
            get_duplicate_token_head_detection_pattern,
            get_induction_head_detection_pattern,
        ),
        strict=True,
    )
)


def detect_head(
    model: Any,
    seq: Any,
    detection_pattern: str | Tensor,
    heads: Sequence[tuple[int, int]] | Mapping[int, Sequence[int]] | None = None,
    cache: Any = None,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: str = "mul",
) -> Float[Tensor, "layer head"]:
    """Score how much each head attends as a pattern says.

    Args:
        model: A bridge.
        seq: Text, a list of texts, or ids of shape (pos) or (batch, pos); scores of several samples
            are averaged.
        detection_pattern: "previous_token_head", "duplicate_token_head", "induction_head", or a
            pattern of shape (pos, pos), 0 above its diagonal.
        heads: Which heads: pairs of layer and head, or the heads of each layer; all if None.
        cache: Of a run on the same tokens, with patterns; a run is made if None.
        exclude_bos: Whether attention to the first position does not count.
        exclude_current_token: Whether attention to a position itself does not count.
        error_measure: "mul" for the share of attention that falls where the pattern is 1; "abs" for
            1 less the attention that differs from the pattern, for each position.

    Returns:
        Of shape (layer, head), -1 where a head was not asked about or a block has no attention.

    Raises:
        ArgumentError: (a ValueError) If the pattern, the measure or a head is none that there is.
    """
    if error_measure not in _MEASURES:
        raise ArgumentError(f"error_measure must be 'mul' or 'abs', got {error_measure!r}.")
    rows = [read_tokens(model, one) for one in seq] if isinstance(seq, list) else None
    samples = rows if rows is not None else list(read_tokens(model, seq).split(1))
    if cache is not None and len(samples) > 1 and rows is not None:
        raise ArgumentError("a cache stands for one batch: give its tokens as ids.")
    chosen = _choose(model, heads)
    total = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for number, tokens in enumerate(samples):
        wanted = _read_pattern(detection_pattern, tokens[0])
        found = _run(model, tokens) if cache is None else cache
        for layer, asked in chosen.items():
            pattern = found["pattern", layer]
            pattern = pattern[number if cache is not None else 0] if pattern.ndim == 4 else pattern
            score = _score(
                pattern.float(), wanted.to(pattern.device), error_measure, exclude_bos,
                exclude_current_token,
            )  # fmt: skip
            total[layer, asked] += score[asked].cpu()
    made = torch.full_like(total, -1.0)
    for layer, asked in chosen.items():
        made[layer, asked] = total[layer, asked] / len(samples)
    return made


def _run(model: Any, tokens: Tensor) -> Any:
    table = model.hook_table()
    names = [name for name in table if name.endswith(".attn.hook_pattern")]
    with torch.no_grad():
        return model.run_with_cache(tokens, names_filter=names, return_type=None)[1]


def _score(
    pattern: Tensor, wanted: Tensor, measure: str, exclude_bos: bool, exclude_current: bool
) -> Tensor:
    counts = torch.ones_like(wanted)
    if exclude_bos:
        counts[:, 0] = 0
    if exclude_current:
        counts.fill_diagonal_(0)
    pattern, wanted = pattern * counts, wanted * counts
    if measure == "mul":
        whole = pattern.sum((-1, -2))
        return (pattern * wanted).sum((-1, -2)) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
    return 1 - (pattern - wanted).abs().sum((-1, -2)) / len(wanted)


def _read_pattern(given: str | Tensor, tokens: Tensor) -> Tensor:
    if isinstance(given, str):
        if given not in _PATTERNS:
            known = ", ".join(map(repr, _PATTERNS))
            raise ArgumentError(f"detection_pattern must be one of {known}, got {given!r}.")
        return _PATTERNS[given](tokens)
    n = len(tokens)
    if given.shape != (n, n) or float(given.triu(1).abs().sum()):
        raise ArgumentError(
            f"detection_pattern must be of shape ({n}, {n}) and 0 above its diagonal, got shape "
            f"{tuple(given.shape)}."
        )
    return given.float()


def _choose(model: Any, heads: Any) -> dict[int, list[int]]:
    """Return the heads asked for, by layer, of layers with attention."""
    layers = [number for number, _ in model.blocks_with("attn")]
    n_heads = model.cfg.n_heads
    if heads is None:
        return {layer: list(range(n_heads)) for layer in layers}
    pairs = heads
    if isinstance(heads, Mapping):
        pairs = [(layer, head) for layer, held in heads.items() for head in held]
    chosen: dict[int, list[int]] = {}
    for layer, head in pairs:
        if layer not in layers or not 0 <= head < n_heads:
            raise ArgumentError(f"there is no head {head!r} in layer {layer!r}.")
        chosen.setdefault(layer, []).append(head)
    return chosen
