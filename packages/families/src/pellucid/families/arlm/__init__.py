"""Autoregressive language models: each token is predicted from those before it.

The modules are `types_arlm`, `model_arlm`, `loss_arlm`, `predictor_arlm`, `datamodule_arlm` and
`metrics_arlm`; `configs` holds what Hydra composes. All public names are here too.
"""

from pellucid.families.arlm.datamodule_arlm import (
    ARLMEmptyDataset,
    ARLMSeq2SeqCollator,
    ARLMSeq2SeqPredCollator,
    DefaultARLMCollator,
    print_batch_arlm,
)
from pellucid.families.arlm.loss_arlm import ARLMLoss
from pellucid.families.arlm.metrics_arlm import (
    exact_match_update_fn,
    mean_metric_update_fn,
    perplexity_update_fn,
    token_accuracy_update_fn,
)
from pellucid.families.arlm.model_arlm import RotaryTransformerARLMModel
from pellucid.families.arlm.predictor_arlm import ARLMPredictor
from pellucid.families.arlm.types_arlm import (
    ARLMBatch,
    ARLMLossDict,
    ARLMModel,
    ARLMPredictionBatch,
    ARLMPredictionDict,
    ARLMSeq2SeqBatch,
)

__all__ = [
    "ARLMBatch",
    "ARLMEmptyDataset",
    "ARLMLoss",
    "ARLMLossDict",
    "ARLMModel",
    "ARLMPredictionBatch",
    "ARLMPredictionDict",
    "ARLMPredictor",
    "ARLMSeq2SeqBatch",
    "ARLMSeq2SeqCollator",
    "ARLMSeq2SeqPredCollator",
    "DefaultARLMCollator",
    "RotaryTransformerARLMModel",
    "exact_match_update_fn",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "print_batch_arlm",
    "token_accuracy_update_fn",
]
