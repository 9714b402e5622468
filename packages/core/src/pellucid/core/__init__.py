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
from pellucid.core._batching import is_out_of_memory, map_in_batches  # noqa: E402
from pellucid.core._budget import Budget  # noqa: E402
from pellucid.core._capabilities import (  # noqa: E402
    CompatibilityReport,
    check_compatibility,
    flows_of,
    needs_gradient,
)
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
    count_differing,
)
from pellucid.core._loss import BaseLoss, CombinedLoss, LossReads  # noqa: E402
from pellucid.core._model import (  # noqa: E402
    BaseModel,
    ClassifierBaseModel,
    EncoderBaseModel,
    LMBaseModel,
    Provides,
)
from pellucid.core._model_io import ModelInput, ModelOutput  # noqa: E402
from pellucid.core._optimizer import BaseOptimizer  # noqa: E402
from pellucid.core._registry import load, names  # noqa: E402
from pellucid.core._resolution import replace_nan, resolve_and_compute_loss  # noqa: E402
from pellucid.core._result import OptimizerResult  # noqa: E402
from pellucid.core._targets import (  # noqa: E402
    DEFAULT_INIT_TRIGGER,
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    MessageTargets,
    SliceKey,
from pellucid.core._parts import (  # noqa: E402
    TRIGGER_PART_SEPARATOR,
    InitialTrigger,
    choose_start,
    join_parts,
    number_placeholder,
    split_parts,
)
    Targets,
    TextTemplates,
    TextTrigger,
from pellucid.core._slots import (  # noqa: E402
    TriggerSlot,
    columns_of,
    first_places,
    place_slots,
    slice_input,
)
    TokenTrigger,
    TokenTriggerCandidates,
)
from pellucid.core._template import (  # noqa: E402
    Messages,
    Template,
    check_templates,
    fill_template,
    split_template,
)
from pellucid.core._tokenizer import BaseTokenizer, HFTokenizerWrapper, as_tokenizer  # noqa: E402
from pellucid.core._tracker import BaseTracker, DummyTracker  # noqa: E402
from pellucid.core._typecheck import are_boundaries_checked, boundary  # noqa: E402

    TemplatePieces,
__all__ = [
    count_parts,
    cut_template,
    "DEFAULT_INIT_TRIGGER",
    highest_part,
    "OPTIMIZED_TRIGGER_PLACEHOLDER",
    "ArgumentError",
    "BaseLoss",
    "BaseModel",
    "BaseOptimizer",
    "BaseTokenizer",
    "BaseTracker",
    "Budget",
    "BudgetError",
    "TRIGGER_PART_SEPARATOR",
    "CheckpointError",
    "ClassifierBaseModel",
    "CombinedLoss",
    "CompatibilityReport",
    "ContainerError",
    "ContractError",
    "DefaultTokenInputManager",
    "DummyTracker",
    "EncoderBaseModel",
    "FlopCounterBase",
    "Flow",
    "GradientEmbedAccessMixin",
    "GradientTokenAccessMixin",
    "HFTokenizerWrapper",
    "InputsManager",
    "InputsNotSetError",
    "InvokeTokenAccessMixin",
    "LMBaseModel",
    "LogitsTokenAccessMixin",
    "LossReads",
    "LossResolutionError",
    "LossTextAccessMixin",
    "LossTokenAccessMixin",
    "ManualFlopCounter",
    "InitialTrigger",
    "MessageTargets",
    "Messages",
    "MissingDependencyError",
    "ModelInput",
    "ModelOutput",
    "NotDifferentiableError",
    "OptimizerResult",
    "PellucidError",
    "Provides",
    "RequirementError",
    "RetokenizationError",
    "SliceKey",
    "Substitutions",
    "Targets",
    "Template",
    "TemplateError",
    "TextAccessMixin",
    "TextInputManager",
    "TextTemplates",
    "TextTrigger",
    "TokenAccessMixin",
    "TokenInputManager",
    "TokenTrigger",
    "TokenTriggerCandidates",
    "UnknownNameError",
    "are_boundaries_checked",
    "as_tokenizer",
    "boundary",
    "check_compatibility",
    "TemplatePieces",
    "check_templates",
    "container",
    "count_differing",
    "fill_template",
    "flows_of",
    "is_out_of_memory",
    "load",
    "map_in_batches",
    "TriggerSlot",
    "names",
    "needs_gradient",
    "replace_nan",
    "resolve_and_compute_loss",
    "select_topk",
    "set_fields",
    "split_template",
    "choose_start",
    "columns_of",
    "compatibility_matrix",
]
    "count_parts",
    "cut_template",
    "first_places",
    "highest_part",
    "join_parts",
    "number_placeholder",
    "place_slots",
    "slice_input",
    "split_parts",
