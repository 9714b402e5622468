"""Masked language models of flexible length: masks are inserted anywhere, and lifted in any order.

The modules are `types_flexmdm`, `noise_flexmdm`, `model_flexmdm`, `loss_flexmdm`,
`predictor_flexmdm`, `datamodule_flexmdm` and `metrics_flexmdm`; `configs` holds what Hydra
composes. All public names are here too.
"""

from pellucid.families.flexmdm.datamodule_flexmdm import (
    FlexMDMInfillPredCollator,
    FlexMDMPredCollator,
    FlexMDMTrainCollator,
    print_batch_flexmdm,
)
from pellucid.families.flexmdm.loss_flexmdm import FlexMDMLoss
from pellucid.families.flexmdm.metrics_flexmdm import (
    exact_match_update_fn,
    mean_metric_update_fn,
    perplexity_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
)
from pellucid.families.flexmdm.model_flexmdm import FlexMDMModel, GapHead
from pellucid.families.flexmdm.noise_flexmdm import (
    CosineSchedule,
    FlexMDMNoiseSchedule,
    GeometricSchedule,
    InterpolantSchedule,
    LinearSchedule,
    PolynomialSchedule,
    SinSchedule,
)
from pellucid.families.flexmdm.predictor_flexmdm import FlexMDMPredictor
from pellucid.families.flexmdm.types_flexmdm import (
    FlexMDMBatch,
    FlexMDMLossDict,
    FlexMDMNetwork,
    FlexMDMPredictionBatch,
    FlexMDMPredictionDict,
)

__all__ = [
    "CosineSchedule",
    "FlexMDMBatch",
    "FlexMDMInfillPredCollator",
    "FlexMDMLoss",
    "FlexMDMLossDict",
    "FlexMDMModel",
    "FlexMDMNetwork",
    "FlexMDMNoiseSchedule",
    "FlexMDMPredCollator",
    "FlexMDMPredictionBatch",
    "FlexMDMPredictionDict",
    "FlexMDMPredictor",
    "FlexMDMTrainCollator",
    "GapHead",
    "GeometricSchedule",
    "InterpolantSchedule",
    "LinearSchedule",
    "PolynomialSchedule",
    "SinSchedule",
    "exact_match_update_fn",
    "mean_metric_update_fn",
    "perplexity_update_fn",
    "print_batch_flexmdm",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
]
