"""Ask/tell optimizers of discrete triggers, and the run that drives them.

An optimizer proposes candidates and is told their losses; a `Run` evaluates, records, checkpoints,
stops and resumes. Token constraints, the retokenization filter and trackers are shared by all.
"""

from pellucid.optimizers._adam import AdamState
from pellucid.optimizers._arca import ARCAOptimizer
from pellucid.optimizers._asktell import AskTellOptimizer, SearchOptimizer
from pellucid.optimizers._autoprompt import AutoPromptOptimizer
from pellucid.optimizers._beam_search import BeamSearchOptimizer, BeamSearchState
from pellucid.optimizers._best import RunningBest
from pellucid.optimizers._buffer import TriggerBuffer
from pellucid.optimizers._bulk_flips import BulkFlipSearch, BulkFlipState
from pellucid.optimizers._composite_tracker import CompositeTracker
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._gaslite import GASLITEOptimizer
from pellucid.optimizers._gasliteplus import GASLITEPlusOptimizer
from pellucid.optimizers._gbda import GBDAOptimizer, GBDAState
from pellucid.optimizers._gcg import GCGOptimizer
from pellucid.optimizers._gcgplus import GCGPlusOptimizer, GCGPlusState
from pellucid.optimizers._goals import ExactMatch, JudgeAgrees, LossBelow, ResponseGoal
from pellucid.optimizers._hotflip import HotFlipOptimizer
from pellucid.optimizers._likely import rank_likely
from pellucid.optimizers._pal import PALOptimizer
from pellucid.optimizers._pez import PEZOptimizer, PEZState
from pellucid.optimizers._pgd import PGDOptimizer, PGDState
from pellucid.optimizers._probe_sampling import ProbeSamplingGCGOptimizer
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import Moves, Search
from pellucid.optimizers._proxied import ProxiedSearch
from pellucid.optimizers._qcg import QCGOptimizer, QCGState
from pellucid.optimizers._random import StepRandom
from pellucid.optimizers._random_search import RandomSearchOptimizer, RandomSearchState
from pellucid.optimizers._random_triggers import get_printable_random_trigger
from pellucid.optimizers._rasliteplus import RASLITEPlusOptimizer
from pellucid.optimizers._restarts import Restarts, RestartsResult, RestartsStep
from pellucid.optimizers._retokenization import (
    draw_surviving,
    retokenize_filtering,
    retokenize_mask,
    retokenize_transform,
    take_surviving,
)
from pellucid.optimizers._run import Run
from pellucid.optimizers._sampling import (
    draw_tokens,
    random_single_flips,
    sample_blocks,
    sample_deletions,
    sample_insertions,
    sample_substitutions,
    substitute_at,
)
from pellucid.optimizers._schedulers import ConstantScheduler, LinearScheduler, NFlipScheduler
from pellucid.optimizers._service_trackers import (
    TensorBoardTracker,
    TrackioTracker,
    WandbTracker,
)
from pellucid.optimizers._simplex import project_on_entropy, project_on_simplex
from pellucid.optimizers._soft_prompt import SoftPromptOptimizer, SoftPromptState
from pellucid.optimizers._state import SearchState
from pellucid.optimizers._step import Callback, Step
from pellucid.optimizers._text_trackers import JSONTracker, PrintTracker
from pellucid.optimizers._tokenizers import find_tokenizer
from pellucid.optimizers._trackers import DictTracker, JSONLTracker
from pellucid.optimizers._variable_length import VariableLengthGCGOptimizer

__all__ = [
    "ARCAOptimizer",
    "AdamState",
    "AskTellOptimizer",
    "AutoPromptOptimizer",
    "BeamSearchOptimizer",
    "BeamSearchState",
    "BulkFlipSearch",
    "BulkFlipState",
    "Callback",
    "CompositeTracker",
    "ConstantScheduler",
    "DictTracker",
    "ExactMatch",
    "GASLITEOptimizer",
    "GASLITEPlusOptimizer",
    "GBDAOptimizer",
    "GBDAState",
    "GCGOptimizer",
    "GCGPlusOptimizer",
    "GCGPlusState",
    "HotFlipOptimizer",
    "JSONLTracker",
    "JSONTracker",
    "JudgeAgrees",
    "LinearScheduler",
    "LossBelow",
    "Moves",
    "NFlipScheduler",
    "PALOptimizer",
    "PEZOptimizer",
    "PEZState",
    "PGDOptimizer",
    "PGDState",
    "PrintTracker",
    "ProbeSamplingGCGOptimizer",
    "Problem",
    "ProxiedSearch",
    "QCGOptimizer",
    "QCGState",
    "RASLITEPlusOptimizer",
    "RandomSearchOptimizer",
    "RandomSearchState",
    "ResponseGoal",
    "Restarts",
    "RestartsResult",
    "RestartsStep",
    "Run",
    "RunningBest",
    "Search",
    "SearchOptimizer",
    "SearchState",
    "SoftPromptOptimizer",
    "SoftPromptState",
    "Step",
    "StepRandom",
    "TensorBoardTracker",
    "TokenConstraints",
    "TrackioTracker",
    "TriggerBuffer",
    "VariableLengthGCGOptimizer",
    "WandbTracker",
    "draw_surviving",
    "draw_tokens",
    "find_tokenizer",
    "get_printable_random_trigger",
    "project_on_entropy",
    "project_on_simplex",
    "random_single_flips",
    "rank_likely",
    "retokenize_filtering",
    "retokenize_mask",
    "retokenize_transform",
    "sample_blocks",
    "sample_deletions",
    "sample_insertions",
    "sample_substitutions",
    "substitute_at",
    "take_surviving",
]
