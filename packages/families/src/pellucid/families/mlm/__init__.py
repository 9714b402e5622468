"""Masked language models: tokens are filled in any order, several at a time.

The modules are `types_mlm`, `model_mlm`, `loss_mlm`, `predictor_mlm`, `datamodule_mlm` and
`metrics_mlm`; `configs` holds what Hydra composes. All public names are here too.
"""

from pellucid.families.mlm.datamodule_mlm import (
    DefaultInfillMLMCollator,
    DefaultMLMCollator,
    MLMEmptyDataset,
    MLMEmptyDatasetFromLengthRef,
    MLMInfillPredCollator,
    MLMInfillWithExactTargetPredCollator,
    MLMSeq2SeqCollator,
    MLMSeq2SeqFullPredCollator,
    MLMSeq2SeqPredCollator,
    MLMSeq2SeqTrainCollator,
    PackedMLMCollator,
    print_batch_mlm,
)
from pellucid.families.mlm.loss_mlm import MLMLoss
from pellucid.families.mlm.metrics_mlm import (
    exact_match_update_fn,
    infill_exact_match_update_fn,
    infill_token_accuracy_update_fn,
    mean_metric_update_fn,
    perplexity_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
)
from pellucid.families.mlm.model_mlm import RotaryTransformerMLMModel
from pellucid.families.mlm.predictor_mlm import MLMPredictor
from pellucid.families.mlm.types_mlm import (
    MLMBatch,
    MLMLossDict,
    MLMModel,
    MLMPredictionBatch,
    MLMPredictionDict,
    PackedMLMBatch,
)

__all__ = [
    "DefaultInfillMLMCollator",
    "DefaultMLMCollator",
    "MLMBatch",
    "MLMEmptyDataset",
    "MLMEmptyDatasetFromLengthRef",
    "MLMInfillPredCollator",
    "MLMInfillWithExactTargetPredCollator",
    "MLMLoss",
    "MLMLossDict",
    "MLMModel",
    "MLMPredictionBatch",
    "MLMPredictionDict",
    "MLMPredictor",
    "MLMSeq2SeqCollator",
    "MLMSeq2SeqFullPredCollator",
    "MLMSeq2SeqPredCollator",
    "MLMSeq2SeqTrainCollator",
    "PackedMLMBatch",
    "PackedMLMCollator",
    "RotaryTransformerMLMModel",
    "exact_match_update_fn",
    "infill_exact_match_update_fn",
    "infill_token_accuracy_update_fn",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "print_batch_mlm",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
]
