"""Hooks, caches and patches for any transformer of transformers.

`TransformerBridge` gives a model's activations names, under which they are read, changed and
differentiated. It replaces no module: a run installs the few torch hooks that it needs and removes
them, and a run without hooks is the model's own.
"""

from pellucid.bridge._analysis._attribution_patching import attribution_patch
from pellucid.bridge._analysis._directions import (
    ablate_direction,
    add_direction,
    difference_in_means,
)
from pellucid.bridge._analysis._edges import EdgeScores, edge_attribution_patch
from pellucid.bridge._analysis._head_detector import detect_head
from pellucid.bridge._analysis._lens import LogitLens, logit_lens, read_lens
from pellucid.bridge._analysis._lens_calls import trace_lens
from pellucid.bridge._analysis._linear_probe import LinearProbe, fit_probe
from pellucid.bridge._analysis._logit_attribution import LogitAttribution, direct_logit_attribution
from pellucid.bridge._analysis._patching import generic_activation_patch
from pellucid.bridge._analysis._path_patching import path_patch
from pellucid.bridge._analysis._pictures import (
    attention_figure,
    attribution_figure,
    logit_lens_figure,
    patching_figure,
)
from pellucid.bridge._architectures._infer import infer_architecture
from pellucid.bridge._architectures._record import (
    Architecture,
    Attention,
    Block,
    ExpertWeights,
    Mixer,
    Mlp,
    Stack,
)
from pellucid.bridge._architectures._registry import (
    find_record,
    known_architectures,
    register_architecture,
)
from pellucid.bridge._caches._activation_store import ActivationStore, store_activations
from pellucid.bridge._caches._cache import ActivationCache
from pellucid.bridge._errors import (
    ArchitectureError,
    CacheFileError,
    HookError,
    HookNameError,
    StateDictError,
    StopAtLayerException,
    WeightError,
)
from pellucid.bridge._model._bridge import TransformerBridge
from pellucid.bridge._model._build import build_bridge_from_module
from pellucid.bridge._model._generation import GenerateOutput
from pellucid.bridge._model._hook_loss import HookLoss
from pellucid.bridge._model._loss import lm_accuracy, lm_cross_entropy_loss
from pellucid.bridge._model._processing import ProcessingReport
from pellucid.bridge._model._sampling import sample_logits
from pellucid.bridge._names._act_names import get_act_name
from pellucid.bridge._names._config import TransformerBridgeConfig
from pellucid.bridge._names._points import HookPoint, LensHandle
from pellucid.bridge._names._slices import Slice
from pellucid.bridge._names._table import HookSpec, HookTable
from pellucid.bridge._weights._composition import CompositionScores, composition_scores
from pellucid.bridge._weights._factored import FactoredMatrix
from pellucid.bridge._weights._svd import SVDInterpreter
from pellucid.bridge._weights._table import WeightSpec

__all__ = [
    "ActivationCache",
    "ActivationStore",
    "Architecture",
    "ArchitectureError",
    "Attention",
    "Block",
    "CacheFileError",
    "CompositionScores",
    "EdgeScores",
    "ExpertWeights",
    "FactoredMatrix",
    "GenerateOutput",
    "HookError",
    "HookLoss",
    "HookNameError",
    "HookPoint",
    "HookSpec",
    "HookTable",
    "LensHandle",
    "LinearProbe",
    "LogitAttribution",
    "LogitLens",
    "Mixer",
    "Mlp",
    "ProcessingReport",
    "SVDInterpreter",
    "Slice",
    "Stack",
    "StateDictError",
    "StopAtLayerException",
    "TransformerBridge",
    "TransformerBridgeConfig",
    "WeightError",
    "WeightSpec",
    "ablate_direction",
    "add_direction",
    "attention_figure",
    "attribution_figure",
    "attribution_patch",
    "build_bridge_from_module",
    "composition_scores",
    "detect_head",
    "difference_in_means",
    "direct_logit_attribution",
    "edge_attribution_patch",
    "find_record",
    "fit_probe",
    "generic_activation_patch",
    "get_act_name",
    "infer_architecture",
    "known_architectures",
    "lm_accuracy",
    "lm_cross_entropy_loss",
    "logit_lens",
    "logit_lens_figure",
    "patching_figure",
    "path_patch",
    "read_lens",
    "register_architecture",
    "sample_logits",
    "store_activations",
    "trace_lens",
]
