"""Insertion language models: tokens are inserted anywhere, until none is missing.

The modules are `types_ilm`, `model_ilm`, `loss_ilm`, `predictor_ilm`, `datamodule_ilm` and
`metrics_ilm`; `configs` holds what Hydra composes. All public names are here too.
"""

from pellucid.families.ilm.datamodule_ilm import (
    DefaultILMCollator,
    ILMEmptyDataset,
    ILMSeq2SeqCollator,
    ILMSeq2SeqPredCollator,
    print_batch_ilm,
)
from pellucid.families.ilm.loss_ilm import ILMLossWithMaskedCE
from pellucid.families.ilm.metrics_ilm import (
    exact_match_update_fn,
    length_loss_update_fn,
    mean_metric_update_fn,
    perplexity_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
    token_ce_update_fn,
)
from pellucid.families.ilm.model_ilm import (
    RotaryTransformerILMModel,
    RotaryTransformerILMModelWithLengthClassification,
    RotaryTransformerILMModelWithStoppingClassification,
)
from pellucid.families.ilm.predictor_ilm import (
    ILMPredictor,
    ILMPredictorWithLengthClassification,
    ILMPredictorWithStoppingClassification,
)
from pellucid.families.ilm.types_ilm import (
    ILMBatch,
    ILMLossDict,
    ILMModel,
    ILMPredictionBatch,
    ILMPredictionDict,
)

__all__ = [
    "DefaultILMCollator",
    "ILMBatch",
    "ILMEmptyDataset",
    "ILMLossDict",
    "ILMLossWithMaskedCE",
    "ILMModel",
    "ILMPredictionBatch",
    "ILMPredictionDict",
    "ILMPredictor",
    "ILMPredictorWithLengthClassification",
    "ILMPredictorWithStoppingClassification",
    "ILMSeq2SeqCollator",
    "ILMSeq2SeqPredCollator",
    "RotaryTransformerILMModel",
    "RotaryTransformerILMModelWithLengthClassification",
    "RotaryTransformerILMModelWithStoppingClassification",
    "exact_match_update_fn",
    "length_loss_update_fn",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "print_batch_ilm",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
    "token_ce_update_fn",
]
