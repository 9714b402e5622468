"""A language model of milliseconds, a loss and a task that the tests of this package share."""

import dataclasses

import jaxtyping
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import BaseLoss, Targets
from pellucid.optimizers import (
    ARCAOptimizer,
    AutoPromptOptimizer,
    BeamSearchOptimizer,
    GASLITEOptimizer,
    GASLITEPlusOptimizer,
    GBDAOptimizer,
    GCGOptimizer,
    GCGPlusOptimizer,
    HotFlipOptimizer,
    PALOptimizer,
    PEZOptimizer,
    PGDOptimizer,
    ProbeSamplingGCGOptimizer,
    QCGOptimizer,
    RandomSearchOptimizer,
    RASLITEPlusOptimizer,
    SoftPromptOptimizer,
    VariableLengthGCGOptimizer,
)
from pellucid.testing import TinyLM


@dataclasses.dataclass
class ResponseLoss(BaseLoss):
    """Cross-entropy of the target response."""

    require_target_prefill = True

    def __call__(
        self,
        prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"],
        target_response_toks: Int[Tensor, " target_pos"],
    ) -> Float[Tensor, " batch"]:
        logp = prefill_response_logits.float().log_softmax(dim=-1)
        return -logp[:, torch.arange(len(target_response_toks)), target_response_toks].mean(dim=-1)


@pytest.fixture
def unchecked():
    """Turn the type hook of the tests off: what a user without it sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def model():
    return TinyLM(seed=0)


@pytest.fixture
def loss():
    return ResponseLoss()


@pytest.fixture
def targets():
    return Targets(target_response_strs=["yes you", "no cat"])


@pytest.fixture
def drive():
    """Make a whole step; the function returns its rounds and the state it ends with."""

    def run(moves, evaluate):
        rounds = []
        try:
            rounds.append(next(moves))
            while True:
                rounds.append(moves.send(evaluate(rounds[-1])))
        except StopIteration as done:
            return rounds, done.value

    return run


# Every optimizer that the laws of test_run.py are held against, with settings that keep it fast.
OPTIMIZERS = {
    "gcg": (GCGOptimizer, {"n_candidates": 16, "sample_topk": 16}),
    "auto-prompt": (AutoPromptOptimizer, {"n_candidates": 16, "sample_topk": 16}),
    "arca": (ARCAOptimizer, {"n_candidates": 16, "sample_topk": 16, "n_grad_avg": 2}),
    "hot-flip": (HotFlipOptimizer, {}),
    "gaslite": (GASLITEOptimizer, {"n_grad": 2, "n_flip": 2, "n_candidates": 8}),
    "gaslite-plus": (
        GASLITEPlusOptimizer,
        {"n_grad": 2, "n_flip": 4, "n_candidates": 8, "buffer_size": 3, "n_bulk_flips": 2},
    ),
    "raslite-plus": (
        RASLITEPlusOptimizer,
        {"n_flip": 4, "n_candidates": 8, "buffer_size": 3, "n_bulk_flips": 2},
    ),
    "random-search": (RandomSearchOptimizer, {"n_candidates": 8, "patience": 2}),
    "gbda": (
        GBDAOptimizer,
        {"n_grad_samples": 2, "n_final_gumbel_samples": 8, "init_mode": "random"},
    ),
    "pez": (PEZOptimizer, {"lr": 20.0}),
    "pgd": (PGDOptimizer, {"lr": 0.5, "patience": 2}),
    "soft-prompt": (SoftPromptOptimizer, {"lr": 0.05}),
    "gcg-plus": (
        GCGPlusOptimizer,
        {
            "n_candidates": 12,
            "sample_topk": 16,
            "proxy_model": TinyLM(seed=1),
            "momentum": 0.5,
            "skip_visited": True,
            "buffer_size": 3,
            "n_grad_avg": 2,
            "template_batch_size": 1,
        },
    ),
    "gcg-plus-focused": (
        GCGPlusOptimizer,
        {"n_candidates": 8, "candidate_selection": "focused", "sample_n_replace": (2, 1)},
    ),
    "pal": (
        PALOptimizer,
        {
            "n_candidates": 12,
            "sample_topk": 16,
            "proxy_model": TinyLM(seed=1),
            "n_candidates_after_proxy_filter": 5,
        },
    ),
    "qcg": (
        QCGOptimizer,
        {
            "n_proxy_candidates": 16,
            "n_target_candidates": 5,
            "buffer_size": 4,
            "proxy_model": TinyLM(seed=1),
        },
    ),
    "beam-search": (BeamSearchOptimizer, {"beam_size": 3, "branching_factor": 4}),
    "probe-sampling-gcg": (
        ProbeSamplingGCGOptimizer,
        {
            "n_candidates": 16,
            "sample_topk": 16,
            "sampling_factor": 4,
            "draft_model": TinyLM(seed=1, d_model=8),
        },
    ),
    "variable-length-gcg": (
        VariableLengthGCGOptimizer,
        {"n_candidates": 24, "sample_topk": 16, "min_length": 2, "max_length": 45},
    ),
}
# Those in which nothing is drawn: another seed gives the same run.
DETERMINISTIC = {"hot-flip", "pez", "pgd", "soft-prompt"}


@pytest.fixture(params=OPTIMIZERS)
def optimizer_kind(request):
    """The class of each optimizer, and its settings."""
    return OPTIMIZERS[request.param]


@pytest.fixture(params=OPTIMIZERS)
def make_optimizer(request, loss):
    """Build an optimizer on a model of its own, so that runs share nothing."""
    kind, settings = OPTIMIZERS[request.param]

    def make(num_steps=6, seed=3, tracker=None, **more):
        return kind(
            TinyLM(seed=0), loss, tracker, seed, num_steps=num_steps, **{**settings, **more}
        )

    make.is_deterministic = request.param in DETERMINISTIC
    return make
