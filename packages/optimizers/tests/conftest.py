"""A language model of milliseconds, a loss and a task that the tests of this package share."""

import dataclasses

import jaxtyping
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import BaseLoss, Targets
from pellucid.optimizers import GCGOptimizer, RandomSearchOptimizer
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


@pytest.fixture(params=["gcg", "random-search"])
def make_optimizer(request, model, loss):
    """Build an optimizer on a model of its own, so that runs share nothing."""
    kinds = {"gcg": GCGOptimizer, "random-search": RandomSearchOptimizer}
    settings = {
        "gcg": {"n_candidates": 16, "sample_topk": 16},
        "random-search": {"n_candidates": 8, "patience": 2},
    }[request.param]

    def make(num_steps=6, seed=3, tracker=None, **more):
        return kinds[request.param](
            TinyLM(seed=0), loss, tracker, seed, num_steps=num_steps, **{**settings, **more}
        )

    return make
