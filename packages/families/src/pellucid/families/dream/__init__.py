"""Block-wise diffusion decoding of causal language models that were trained to fill masks.

There is no loss: the family samples from networks that others trained, of transformers or of this
workspace. `DreamModel` reads a causal language model as such a network, `DreamPredictor` samples.
"""

from pellucid.families.dream.backbones_dream import load_backbone, qwen2_backbone
from pellucid.families.dream.datamodule_dream import DreamPredCollator
from pellucid.families.dream.metrics_dream import (
    exact_match_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
)
from pellucid.families.dream.model_dream import DreamModel, shift_logits
from pellucid.families.dream.predictor_dream import DreamPredictor
from pellucid.families.dream.types_dream import (
    CachingNetwork,
    DreamNetwork,
    DreamPredictionBatch,
    DreamPredictionDict,
    KeyValues,
)

__all__ = [
    "CachingNetwork",
    "DreamModel",
    "DreamNetwork",
    "DreamPredCollator",
    "DreamPredictionBatch",
    "DreamPredictionDict",
    "DreamPredictor",
    "KeyValues",
    "exact_match_update_fn",
    "load_backbone",
    "qwen2_backbone",
    "shift_logits",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
]
