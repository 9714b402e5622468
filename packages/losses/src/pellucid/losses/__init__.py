"""Losses over what a language model, an encoder or a classifier returns.

Each is a callable that names the fields it reads and returns one float for each sample, the lower
the better; arithmetic is in float32 or wider. They are grouped by what they read, and registered
in the entry-point group `pellucid.losses`.
"""

from pellucid.losses._attention import AttentionBasedLoss, AttentionEnhLoss
from pellucid.losses._classification import ClassificationBasedLoss, MisclassCELoss
from pellucid.losses._embedding import EmbeddingBasedLoss, SimilarityLoss
from pellucid.losses._hidden_states import HiddenStateBasedLoss, SteeringActivationLoss
from pellucid.losses._judge import (
    BinaryLMJudgeLoss,
    GeneratedResponseBasedLoss,
    InputFluencyLoss,
    ResponseLMScoreLoss,
)
from pellucid.losses._nll_bound import NLLBoundLoss
from pellucid.losses._prefill import (
    PrefillBasedLoss,
    PrefillCELoss,
    PrefillCWLoss,
    PrefillDistillationLoss,
    PrefillMellowMaxLoss,
)
from pellucid.losses._target_start import TargetStartNLLLoss
from pellucid.losses._text import FirstTokenNLLLoss, TextBasedLoss
from pellucid.losses._token_nll import IGNORE_INDEX, masked_mean
from pellucid.losses._trigger_logits import TriggerLogitBasedLoss, TriggerPerplexityLoss

__all__ = [
    "IGNORE_INDEX",
    "AttentionBasedLoss",
    "AttentionEnhLoss",
    "BinaryLMJudgeLoss",
    "ClassificationBasedLoss",
    "EmbeddingBasedLoss",
    "FirstTokenNLLLoss",
    "GeneratedResponseBasedLoss",
    "HiddenStateBasedLoss",
    "InputFluencyLoss",
    "MisclassCELoss",
    "NLLBoundLoss",
    "PrefillBasedLoss",
    "PrefillCELoss",
    "PrefillCWLoss",
    "PrefillDistillationLoss",
    "PrefillMellowMaxLoss",
    "ResponseLMScoreLoss",
    "SimilarityLoss",
    "SteeringActivationLoss",
    "TargetStartNLLLoss",
    "TextBasedLoss",
    "TriggerLogitBasedLoss",
    "TriggerPerplexityLoss",
    "masked_mean",
]
