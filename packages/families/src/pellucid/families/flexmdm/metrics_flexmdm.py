"""What metrics read from a batch and from what the loss or the predictor made of it.

Each function is called as `f(batch, output, tokenizer)` and returns the arguments of the metric's
`update`.
"""

from collections.abc import Mapping
from typing import Any

from pellucid.xlm.metrics import nll_bound_update_fn as perplexity_update_fn
from pellucid.xlm.metrics import seq2seq_exact_match_update_fn as exact_match_update_fn
from pellucid.xlm.metrics import seq2seq_token_accuracy_update_fn as token_accuracy_update_fn
from pellucid.xlm.metrics import steps_taken_update_fn


def mean_metric_update_fn(
    batch: Mapping[str, Any], output: Mapping[str, Any], tokenizer: Any = None, *, key: str = "loss"
) -> dict[str, Any]:
    """Return a loss, weighted by the number of tokens that it is a mean over."""
    del batch, tokenizer
    return {"value": output[key].detach(), "weight": output["tokens"].sum()}


__all__ = [
    "exact_match_update_fn",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
]
