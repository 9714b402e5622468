"""The contracts of Pellucid: what a model, a loss, an optimizer and a tracker are to each other.

A model declares its access by mixins and its fields by `provides`; a loss reads fields by name; an
optimizer requires access; `check_compatibility` says whether the three go together. Everything
else in Pellucid stands on this package, and this package stands on torch alone.
"""

from pellucid.core import _typecheck

_typecheck.install_hook()  # before any other module, or those would go unchecked

from pellucid.core._access import (  # noqa: E402
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InvokeTokenAccessMixin,
    LogitsTokenAccessMixin,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    Substitutions,
    TextAccessMixin,
    TokenAccessMixin,
    select_topk,
)
from pellucid.core._activations import (  # noqa: E402
    ActivationReader,
    ActivationSource,
    ActivationsRead,
    DescribedModel,
    NamedActivation,
)
from pellucid.core._batching import is_out_of_memory, map_in_batches  # noqa: E402
from pellucid.core._budget import Budget  # noqa: E402
from pellucid.core._capabilities import (  # noqa: E402
    CompatibilityReport,
    Lack,
    Verdict,
    check_compatibility,
    flows_of,
    needs_gradient,
)
from pellucid.core._conditions import Condition, Role  # noqa: E402
from pellucid.core._container import container, set_fields  # noqa: E402
from pellucid.core._errors import (  # noqa: E402
    ArgumentError,
    BudgetError,
    CheckpointError,
    ContainerError,
    ContractError,
    InputsNotSetError,
    LossResolutionError,
    MissingDependencyError,
    NotDifferentiableError,
    PellucidError,
    RequirementError,
    RetokenizationError,
    TemplateError,
    UnknownNameError,
)
from pellucid.core._flops import FlopCounterBase, ManualFlopCounter  # noqa: E402
from pellucid.core._flow import Flow  # noqa: E402
from pellucid.core._inputs import (  # noqa: E402
    DefaultTokenInputManager,
    InputsManager,
    TextInputManager,
    TokenInputManager,
)
from pellucid.core._loss import BaseLoss, CombinedLoss, LossReads  # noqa: E402
from pellucid.core._matrix import (  # noqa: E402
    CompatibilityMatrix,
    MatrixCell,
    compatibility_matrix,
)
from pellucid.core._model import (  # noqa: E402
    BaseModel,
    ClassifierBaseModel,
    EncoderBaseModel,
    LMBaseModel,
    Provides,
)
from pellucid.core._model_io import ModelInput, ModelOutput  # noqa: E402
from pellucid.core._model_sources import ModelSource, find_model_source  # noqa: E402
from pellucid.core._optimizer import BaseOptimizer  # noqa: E402
from pellucid.core._parts import (  # noqa: E402
    TRIGGER_PART_SEPARATOR,
    InitialTrigger,
    choose_start,
    join_parts,
    number_placeholder,
    split_parts,
)
from pellucid.core._registry import load, names  # noqa: E402
from pellucid.core._resolution import replace_nan, resolve_and_compute_loss  # noqa: E402
from pellucid.core._result import OptimizerResult  # noqa: E402
from pellucid.core._slots import (  # noqa: E402
    TriggerSlot,
    columns_of,
    first_places,
    place_slots,
    slice_input,
)
from pellucid.core._states import HeldStates, StateSelection  # noqa: E402
from pellucid.core._targets import (  # noqa: E402
    DEFAULT_INIT_TRIGGER,
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    MessageTargets,
    SliceKey,
    Targets,
    TextTemplates,
    TextTrigger,
    TokenTrigger,
    TokenTriggerCandidates,
)
from pellucid.core._template import (  # noqa: E402
    Messages,
    Template,
    TemplatePieces,
    check_templates,
    count_parts,
    cut_template,
    fill_template,
    highest_part,
    split_template,
)
from pellucid.core._tokenizer import BaseTokenizer, HFTokenizerWrapper, as_tokenizer  # noqa: E402
from pellucid.core._tracker import BaseTracker, DummyTracker  # noqa: E402
from pellucid.core._trigger_tokens import TriggerTokens, count_differing  # noqa: E402
from pellucid.core._typecheck import are_boundaries_checked, boundary  # noqa: E402

__all__ = [
    "DEFAULT_INIT_TRIGGER",
    "OPTIMIZED_TRIGGER_PLACEHOLDER",
    "TRIGGER_PART_SEPARATOR",
    "ActivationReader",
    "ActivationSource",
    "ActivationsRead",
    "ArgumentError",
    "BaseLoss",
    "BaseModel",
    "BaseOptimizer",
    "BaseTokenizer",
    "BaseTracker",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "ClassifierBaseModel",
    "CombinedLoss",
    "CompatibilityMatrix",
    "CompatibilityReport",
    "Condition",
    "ContainerError",
    "ContractError",
    "DefaultTokenInputManager",
    "DescribedModel",
    "DummyTracker",
    "EncoderBaseModel",
    "FlopCounterBase",
    "Flow",
    "GradientEmbedAccessMixin",
    "GradientTokenAccessMixin",
    "HFTokenizerWrapper",
    "HeldStates",
    "InitialTrigger",
    "InputsManager",
    "InputsNotSetError",
    "InvokeTokenAccessMixin",
    "LMBaseModel",
    "Lack",
    "LogitsTokenAccessMixin",
    "LossReads",
    "LossResolutionError",
    "LossTextAccessMixin",
    "LossTokenAccessMixin",
    "ManualFlopCounter",
    "MatrixCell",
    "MessageTargets",
    "Messages",
    "MissingDependencyError",
    "ModelInput",
    "ModelOutput",
    "ModelSource",
    "NamedActivation",
    "NotDifferentiableError",
    "OptimizerResult",
    "PellucidError",
    "Provides",
    "RequirementError",
    "RetokenizationError",
    "Role",
    "SliceKey",
    "StateSelection",
    "Substitutions",
    "Targets",
    "Template",
    "TemplateError",
    "TemplatePieces",
    "TextAccessMixin",
    "TextInputManager",
    "TextTemplates",
    "TextTrigger",
    "TokenAccessMixin",
    "TokenInputManager",
    "TokenTrigger",
    "TokenTriggerCandidates",
    "TriggerSlot",
    "TriggerTokens",
    "UnknownNameError",
    "Verdict",
    "are_boundaries_checked",
    "as_tokenizer",
    "boundary",
    "check_compatibility",
    "check_templates",
    "choose_start",
    "columns_of",
    "compatibility_matrix",
    "container",
    "count_differing",
    "count_parts",
    "cut_template",
    "fill_template",
    "find_model_source",
    "first_places",
    "flows_of",
    "highest_part",
    "is_out_of_memory",
    "join_parts",
    "load",
    "map_in_batches",
    "names",
    "needs_gradient",
    "number_placeholder",
    "place_slots",
    "replace_nan",
    "resolve_and_compute_loss",
    "select_topk",
    "set_fields",
    "slice_input",
    "split_parts",
    "split_template",
]
