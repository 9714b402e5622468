"""What metrics read from a batch and from what the loss or the predictor made of it.

Each function is called as `f(batch, output, tokenizer)` and returns the arguments of the metric's
`update`.
"""

from pellucid.xlm.metrics import nll_bound_update_fn as perplexity_update_fn
from pellucid.xlm.metrics import seq2seq_exact_match_update_fn as exact_match_update_fn
from pellucid.xlm.metrics import seq2seq_token_accuracy_update_fn as token_accuracy_update_fn
from pellucid.xlm.metrics import steps_taken_update_fn
from pellucid.xlm.metrics import token_mean_update_fn as mean_metric_update_fn

__all__ = [
    "exact_match_update_fn",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
]
