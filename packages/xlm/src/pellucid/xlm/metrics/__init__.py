"""Metrics of a run, and the functions that feed them from a family's batches and outputs.

`MetricWrapper` puts a metric and an update function together, so that one metric serves families
that name their fields differently. Post-hoc evaluators judge predictions once all are there.
"""

from pellucid.xlm.metrics._counting import (
    ExactMatch,
    MeanMetricWithComputedValue,
    NatsPerToken,
    Perplexity,
    TokenAccuracy,
)
from pellucid.xlm.metrics._post_hoc import (
    CompositePostHocEvaluator,
    PostHocEvaluator,
    SyntacticEvaluator,
    UnigramEntropy,
)
from pellucid.xlm.metrics._updates import (
    end_at_eos,
    exact_match_update_fn,
    infill_token_accuracy_update_fn,
    mean_metric_update_fn,
    nll_bound_update_fn,
    seq2seq_exact_match_update_fn,
    seq2seq_token_accuracy_update_fn,
    steps_taken_update_fn,
    to_one_width,
    token_mean_update_fn,
)
from pellucid.xlm.metrics._wrapper import MetricWrapper

__all__ = [
    "CompositePostHocEvaluator",
    "ExactMatch",
    "MeanMetricWithComputedValue",
    "MetricWrapper",
    "NatsPerToken",
    "Perplexity",
    "PostHocEvaluator",
    "SyntacticEvaluator",
    "TokenAccuracy",
    "UnigramEntropy",
    "end_at_eos",
    "exact_match_update_fn",
    "infill_token_accuracy_update_fn",
    "mean_metric_update_fn",
    "nll_bound_update_fn",
    "seq2seq_exact_match_update_fn",
    "seq2seq_token_accuracy_update_fn",
    "steps_taken_update_fn",
    "to_one_width",
    "token_mean_update_fn",
]
