"""Update functions: from what a family's batch and output hold to what a metric counts.

Each is called as `f(batch, output, tokenizer, **settings)` and returns the arguments of the
metric's `update`. A family that names its fields otherwise brings its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.core import RequirementError, UnknownNameError
from pellucid.xlm.contracts import IGNORED

Mapped = Mapping[str, Any]


def mean_metric_update_fn(
    batch: Mapped, output: Mapped, tokenizer: Any = None, *, key: str = "loss"
) -> dict[str, Any]:
    """Average a value of the output; one that stands for a whole batch counts for each row.

    Args:
        batch: Says how many rows there are.
        output: Of the loss, or of the predictor.
        tokenizer: Not used.
        key: Which value.
    """
    del tokenizer
    value = torch.as_tensor(_field(output, key, "output"))
    return {"value": value, "weight": _n_rows(batch) if value.ndim == 0 else 1}


def token_mean_update_fn(
    batch: Mapped, output: Mapped, tokenizer: Any = None, *, key: str = "loss"
) -> dict[str, Any]:
    """Average a loss over tokens: a batch counts by the `tokens` that its loss is a mean of.

    Args:
        batch: Not used.
        output: Of the loss.
        tokenizer: Not used.
        key: Which loss, of a family that has several.
    """
    del batch, tokenizer
    loss = _field(output, key, "output").detach()
    return {"value": loss, "weight": _field(output, "tokens", "output").sum()}


def exact_match_update_fn(batch: Mapped, output: Mapped, tokenizer: Any) -> dict[str, Any]:
    """Compare whole rows of predicted ids with the targets, each up to its first EOS."""
    target = _targets(batch, tokenizer)
    pred, target = to_one_width(_ids(output, target), target, pad=tokenizer.pad_token_id)
    return {"pred": end_at_eos(pred, tokenizer), "target": end_at_eos(target, tokenizer)}


def seq2seq_exact_match_update_fn(batch: Mapped, output: Mapped, tokenizer: Any) -> dict[str, Any]:
    """Compare whatever follows the prompt with the targets, each up to its first EOS.

    Both are filled with padding to one width, so that a prediction that stops early, or goes on too
    long, is wrong.
    """
    pred, target = _suffixes(batch, output, tokenizer)
    return {"pred": pred, "target": target}


def seq2seq_token_accuracy_update_fn(
    batch: Mapped, output: Mapped, tokenizer: Any
) -> dict[str, Any]:
    """Compare the tokens after the prompt, where the target has any before its EOS."""
    pred, target = _suffixes(batch, output, tokenizer)
    return {"pred": pred, "target": target, "pred_mask": target != tokenizer.pad_token_id}


def infill_token_accuracy_update_fn(
    batch: Mapped, output: Mapped, tokenizer: Any
) -> dict[str, Any]:
    """Compare the tokens that stand where the batch had gaps."""
    target = _targets(batch, tokenizer)
    gaps = _field(batch, "input_ids", "batch") == tokenizer.mask_token_id
    pad = tokenizer.pad_token_id
    pred, target = to_one_width(_ids(output, target), target, pad=pad)
    is_gap = functional.pad(gaps, (0, target.shape[1] - gaps.shape[1]))
    return {"pred": pred, "target": target, "pred_mask": is_gap}


def steps_taken_update_fn(batch: Mapped, output: Mapped, tokenizer: Any = None) -> dict[str, Any]:
    """Average the network evaluations per row."""
    del batch, tokenizer
    return {"value": torch.as_tensor(_field(output, "steps_taken", "output")).float()}


def nll_bound_update_fn(batch: Mapped, output: Mapped, tokenizer: Any = None) -> dict[str, Any]:
    """Hand a bound on the likelihood to `NatsPerToken` or `Perplexity`.

    The output holds it as `nll_bound` (with `nats` and `tokens`), or as `nats` and `tokens`.
    """
    del batch, tokenizer
    bound = output.get("nll_bound")
    if bound is not None:
        return {"nats": bound.nats, "tokens": bound.tokens}
    return {name: _field(output, name, "output") for name in ("nats", "tokens")}


def end_at_eos(ids: Tensor, tokenizer: Any) -> Tensor:
    """Return ids with padding from the first EOS of each row on, (batch, pos)."""
    is_over = (ids == tokenizer.eos_token_id).cumsum(dim=1) > 0
    return ids.masked_fill(is_over, tokenizer.pad_token_id)


def to_one_width(first: Tensor, second: Tensor, *, pad: int) -> tuple[Tensor, Tensor]:
    """Fill the narrower of two rectangles with padding on the right; neither is cut."""
    width = max(first.shape[1], second.shape[1])
    filled = [functional.pad(ids, (0, width - ids.shape[1]), value=pad) for ids in (first, second)]
    return filled[0], filled[1]


def _suffixes(batch: Mapped, output: Mapped, tokenizer: Any) -> tuple[Tensor, Tensor]:
    target = _targets(batch, tokenizer)
    generated = _ids(output, target)[:, int(_field(output, "output_start_idx", "output")) :]
    pred, target = to_one_width(
        end_at_eos(generated, tokenizer),
        end_at_eos(target, tokenizer),
        pad=tokenizer.pad_token_id,
    )
    return pred, target


def _targets(batch: Mapped, tokenizer: Any) -> Tensor:
    target = _field(batch, "target_ids", "batch")
    if target is None:
        raise RequirementError("the batch has no targets to compare with; leave this metric out")
    return target.masked_fill(target == IGNORED, tokenizer.pad_token_id)


def _ids(output: Mapped, like: Tensor) -> Tensor:
    return _field(output, "ids", "output").to(like.device)


def _field(held: Mapped, name: str, where: str) -> Any:
    if name not in held:
        raise UnknownNameError(f"field of the {where}", name, held)
    return held[name]


def _n_rows(batch: Mapped) -> int:
    tensors = (held for held in batch.values() if isinstance(held, Tensor) and held.ndim > 0)
    first = next(tensors, None)
    return 1 if first is None else len(first)
