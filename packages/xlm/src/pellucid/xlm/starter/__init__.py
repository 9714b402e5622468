"""Language models whose texts are filled step by step: tokens that were masked, the surest first.

The modules are `types_starter`, `model_starter`, `loss_starter`, `predictor_starter`,
`datamodule_starter` and `metrics_starter`; `configs` holds what Hydra composes. All public names
are here too.
"""

from pellucid.xlm.starter.datamodule_starter import (
    DefaultStarterCollator,
    StarterSeq2SeqCollator,
    StarterSeq2SeqPredCollator,
)
from pellucid.xlm.starter.loss_starter import StarterLoss
from pellucid.xlm.starter.model_starter import StarterModel
from pellucid.xlm.starter.predictor_starter import StarterPredictor
from pellucid.xlm.starter.types_starter import (
    StarterBatch,
    StarterLossDict,
    StarterPredictionBatch,
    StarterPredictionDict,
)

__all__ = [
    "DefaultStarterCollator",
    "StarterBatch",
    "StarterLoss",
    "StarterLossDict",
    "StarterModel",
    "StarterPredictionBatch",
    "StarterPredictionDict",
    "StarterPredictor",
    "StarterSeq2SeqCollator",
    "StarterSeq2SeqPredCollator",
]
