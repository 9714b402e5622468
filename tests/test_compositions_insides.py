"""Triggers against what a model computes inside: an activation, a head's attention, a probe."""

from typing import Any

import pytest
import torch

from pellucid.bridge import HookLoss, LinearProbe, TransformerBridge, fit_probe
from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.optimizers import GCGOptimizer
from pellucid.testing import tiny_llama, tiny_tokenizer

TEMPLATE = f"Tell me {P} now"
TARGETS = Targets(target_response_strs=["Yes."])
TRIGGER = "a b c d"


@pytest.fixture(scope="module")
def bridge() -> TransformerBridge:
    return TransformerBridge(tiny_llama(num_hidden_layers=4), tokenizer=tiny_tokenizer())


def distance_from_another_prompt(bridge: TransformerBridge) -> HookLoss:
    """As far as the stream at the last position is from where another prompt leads it."""
    name = "blocks.1.hook_resid_post"
    with torch.no_grad():
        _, cache = bridge.run_with_cache("A warm day is kind", names_filter=name)
    goal = cache[name][0, -1]
    return HookLoss(name, lambda stream: (stream[:, -1] - goal).square().mean(dim=-1))


def inattention_of_a_head(bridge: TransformerBridge) -> HookLoss:
    """How little head 2 of block 1 looks from the last position at the first one."""
    return HookLoss("blocks.1.attn.hook_pattern", lambda pattern: -pattern[:, 2, -1, 0])


def fit_on_letters(bridge: TransformerBridge) -> LinearProbe:
    """A probe of whether the last word is a digit, as the stream knows it."""
    texts = [
        f"{start} {end}" for start in ("I see", "he has", "not") for end in "0123456789abcdefgh"
    ]
    name = "blocks.1.hook_resid_post"
    with torch.no_grad():
        rows = [bridge.run_with_cache(text, names_filter=name)[1][name][0, -1] for text in texts]
    return fit_probe(torch.stack(rows), [int(text[-1].isdigit()) for text in texts])


def log_odds_of_a_probe(bridge: TransformerBridge) -> HookLoss:
    probe = fit_on_letters(bridge)
    assert probe.train_accuracy > 0.9
    return HookLoss("blocks.1.hook_resid_post", lambda stream: -probe.scores(stream[:, -1]))


GOALS = {
    "activation": distance_from_another_prompt,
    "attention": inattention_of_a_head,
    "probe": log_odds_of_a_probe,
}


@pytest.mark.parametrize("goal", GOALS)
def test_a_trigger_is_optimised_against_the_insides(bridge: Any, goal: str) -> None:
    loss = GOALS[goal](bridge)
    model = LMHFModel(bridge)
    calls = count_blocks(bridge)
    search = GCGOptimizer(model, loss, num_steps=4, n_candidates=24, sample_topk=16, seed=0)
    result = search.optimize_trigger([TEMPLATE], TRIGGER, TARGETS)
    assert result.best_loss < result.initial_loss - 0.02 * abs(result.initial_loss)
    # Nothing behind the activation is computed, in any pass.
    assert set(calls.numbers) == {0, 1}
    calls.remove()
    # The same number from the text that was found, by the bridge alone.
    model.set_inputs_from_tokens([TEMPLATE], TARGETS)
    ids = model.encode_trigger(result.best_trigger_str)[None]
    filled = model._token_input_manager.get_triggered_inputs(0, ids).input_ids
    _, cache = bridge.run_with_cache(filled)
    found = float(loss.objective(cache[loss.hook_name]))
    assert found == pytest.approx(result.best_loss, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("goal", GOALS)
def test_gradients_are_those_of_finite_differences(bridge: Any, goal: str) -> None:
    loss = GOALS[goal](bridge)
    model = LMHFModel(bridge)
    model.set_inputs_from_tokens([TEMPLATE], TARGETS)
    embeds = model._embed(torch.tensor([[31, 32, 33, 34]]))
    direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(0))
    ends = [
        model.compute_grad_from_embeds(loss, embeds + sign * 2e-3 * direction, return_loss=True)[1]
        for sign in (1, -1)
    ]
    slope = float(ends[0] - ends[1]) / 4e-3
    grad = model.compute_grad_from_embeds(loss, embeds)
    assert float((grad * direction).sum()) == pytest.approx(slope, rel=0.05, abs=2e-4)


class count_blocks:  # noqa: N801 - reads as what it does
    """Notes which blocks run."""

    def __init__(self, bridge: Any) -> None:
        self.numbers: list[int] = []
        self._handles = [
            block.register_forward_pre_hook(lambda *_, n=n: self.numbers.append(n))
            for n, block in enumerate(bridge.original_model.model.layers)
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
