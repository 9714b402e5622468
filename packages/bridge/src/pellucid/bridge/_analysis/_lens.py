"""The logit lens: what a model would say if it ended before each of its blocks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.bridge._analysis._patch_runs import read_tokens
from pellucid.bridge._caches._readout import check_readout, find_readout
from pellucid.core import ArgumentError

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitLens:
    """The best tokens before each block, and at the end.

    Attributes:
        labels: "0_pre", "1_pre", ..., "final_post".
        tokens: The best tokens, of shape (layer, batch, pos, k), best first.
        probs: Their probabilities.
        target_log_probs: The log-probability of a target token, of shape (layer, batch, pos), in
            nats; None without targets.
        target_ranks: How many tokens are likelier than the target; None without targets.
        input_ids: The tokens that were read, of shape (batch, pos); None if the pass was given
            embeddings.
    """

    labels: tuple[str, ...]
    tokens: Int[Tensor, "layer batch pos k"]
    probs: Float[Tensor, "layer batch pos k"]
    target_log_probs: Float[Tensor, "layer batch pos"] | None = None
    target_ranks: Int[Tensor, "layer batch pos"] | None = None
    input_ids: Int[Tensor, "batch pos"] | None = None


def read_lens(
    model: Any,
    tokens: Any,
    read: Callable[[Tensor], Read],
    *,
    layers: Sequence[int] | None = None,
    attention_mask: Tensor | None = None,
) -> tuple[tuple[str, ...], list[Read]]:
    """Read the logits before each block while the model runs, one block's at a time.

    No more than one block's logits are in memory; what `read` makes of them is kept.

    Args:
        model: A bridge.
        tokens: Ids of shape (batch, pos), or text.
        read: Takes logits of shape (batch, pos, d_vocab).
        layers: The blocks before which to look; all if None. The end is always among them.
        attention_mask: 0 where a position is padding.

    Returns:
        Labels, and what `read` returned for each.

    Raises:
        ArchitectureError: (a ValueError) If the model does not make its logits of the last stream
            by one norm and one projection.
        ArgumentError: (a ValueError) If there is no such block.
    """
    ids, n = read_tokens(model, tokens), model.cfg.n_layers
    chosen = list(range(n)) if layers is None else sorted(set(layers))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < n:
        raise ArgumentError(f"layers must lie in 0..{n - 1}, got {layers!r}.")
    readout = find_readout(model)
    found: list[Read] = []
    last: list[Tensor] = []

    def look(stream: Tensor, hook: Any) -> None:
        found.append(read(readout(stream)))

    def keep(stream: Tensor, hook: Any) -> None:
        last.append(stream[:, -1:].clone())

    hooks: list[Any] = [(("resid_pre", number), look) for number in chosen]
    hooks.append((("resid_post", n - 1), keep))
    masked = {} if attention_mask is None else {"attention_mask": attention_mask}
    with torch.no_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=hooks, **masked)
        check_readout(readout, last[0], logits[:, -1:])
        found.append(read(logits))
    return (*(f"{number}_pre" for number in chosen), "final_post"), found


def logit_lens(
    model: Any,
    tokens: Any,
    *,
    k: int = 5,
    targets: Tensor | None = None,
    layers: Sequence[int] | None = None,
    attention_mask: Tensor | None = None,
) -> LogitLens:
    """Return the best tokens before each block, at every position.

    nostalgebraist 2020, "interpreting GPT: the logit lens".

    Args:
        model: A bridge.
        tokens: Ids of shape (batch, pos), or text.
        k: How many tokens.
        targets: A token for each position whose log-probability and rank are wanted, of shape
            (batch, pos).
        layers: The blocks before which to look; all if None. The end is always among them.
        attention_mask: 0 where a position is padding.

    Raises:
        ArchitectureError: (a ValueError) If the model does not make its logits of the last stream
            by one norm and one projection.
        ArgumentError: (a ValueError) If there is no such block, or targets do not fit the tokens.
    """
    ids = read_tokens(model, tokens)
    wanted = None if targets is None else targets.to(ids.device)
    if wanted is not None and wanted.shape != ids.shape:
        raise ArgumentError(
            f"targets must have the shape of the tokens, {tuple(ids.shape)}, got "
            f"{tuple(wanted.shape)}."
        )
    if not 1 <= k <= model.cfg.d_vocab_out:
        raise ArgumentError(f"k must lie in 1..{model.cfg.d_vocab_out}, got {k!r}.")

    def read(logits: Tensor) -> tuple[Tensor, ...]:
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = precise.logsumexp(-1, keepdim=True)
        best = precise.topk(k, dim=-1)
        probs = (best.values - total).exp()
        if wanted is None:
            return best.indices, probs
        target = precise.gather(-1, wanted.unsqueeze(-1))
        ranks = (precise > target).sum(-1)
        return best.indices, probs, (target - total).squeeze(-1), ranks

    labels, found = read_lens(model, ids, read, layers=layers, attention_mask=attention_mask)
    stacked = [torch.stack(parts) for parts in zip(*found, strict=True)]
    return LogitLens(
        labels=labels,
        tokens=stacked[0],
        probs=stacked[1],
        target_log_probs=stacked[2] if wanted is not None else None,
        target_ranks=stacked[3] if wanted is not None else None,
        input_ids=ids,
    )
