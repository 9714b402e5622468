"""Masked diffusion language models: texts are noise at time 1, masks alone, and clean at time 0.

The modules are `types_mdlm`, `model_mdlm`, `loss_mdlm`, `predictor_mdlm`, `datamodule_mdlm` and
`metrics_mdlm`; `configs` holds what Hydra composes. All public names are here too.
"""

from pellucid.families.mdlm._noising import Noise, mask_a_number, mask_each_token
from pellucid.families.mdlm._reverse import ReverseTimes, likely_noise
from pellucid.families.mdlm._subs import forbid_mask, subs_log_probs
from pellucid.families.mdlm.datamodule_mdlm import (
    DefaultMDLMCollator,
    MDLMEmptyDataset,
    MDLMInfillPredCollator,
    MDLMSeq2SeqPredCollator,
    MDLMSeq2SeqTrainCollator,
    print_batch_mdlm,
)
from pellucid.families.mdlm.loss_mdlm import MDLMLoss
from pellucid.families.mdlm.metrics_mdlm import (
    exact_match_update_fn,
    infill_exact_match_update_fn,
    infill_token_accuracy_update_fn,
    mean_metric_update_fn,
    perplexity_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
)
from pellucid.families.mdlm.model_mdlm import MDLMModel
from pellucid.families.mdlm.predictor_mdlm import MDLMPredictor
from pellucid.families.mdlm.types_mdlm import (
    MDLMBatch,
    MDLMLossDict,
    MDLMNetwork,
    MDLMPredictionBatch,
    MDLMPredictionDict,
)

__all__ = [
    "DefaultMDLMCollator",
    "MDLMBatch",
    "MDLMEmptyDataset",
    "MDLMInfillPredCollator",
    "MDLMLoss",
    "MDLMLossDict",
    "MDLMModel",
    "MDLMNetwork",
    "MDLMPredictionBatch",
    "MDLMPredictionDict",
    "MDLMPredictor",
    "MDLMSeq2SeqPredCollator",
    "MDLMSeq2SeqTrainCollator",
    "Noise",
    "ReverseTimes",
    "exact_match_update_fn",
    "forbid_mask",
    "infill_exact_match_update_fn",
    "infill_token_accuracy_update_fn",
    "likely_noise",
    "mask_a_number",
    "mask_each_token",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "print_batch_mdlm",
    "steps_taken_update_fn",
    "subs_log_probs",
    "token_accuracy_update_fn",
]
