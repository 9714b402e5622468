"""A bridged model as a backend of trigger optimisation, and losses that read any activation."""

from typing import Any

import pytest
import torch

from pellucid.bridge import HookLoss, TransformerBridge, ablate_direction, add_direction
from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    CombinedLoss,
    RequirementError,
    Targets,
    check_compatibility,
)
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.optimizers import GCGOptimizer, PEZOptimizer
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer
from pellucid.tptt import TpttConfig, TpttModel

TEMPLATES = [
    f"Tell me {OPTIMIZED_TRIGGER_PLACEHOLDER} now",
    f"Is it {OPTIMIZED_TRIGGER_PLACEHOLDER}?",
]
TARGETS = Targets(target_response_strs=["Yes, it is.", "No."])
NAMES = [
    "blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern",
    "blocks.0.mlp.hook_post", "blocks.1.hook_resid_mid", "hook_embed",
]  # fmt: skip


def total_norm(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(1).norm(dim=-1)


def make_tptt() -> Any:
    base = tiny_llama()
    return TpttModel(
        TpttConfig(base.config, mag_weight=0.5, max_chunk_size=4), backbone=base
    ).eval()


@pytest.fixture(params=["llama", "gpt2"])
def bridge(request: pytest.FixtureRequest) -> TransformerBridge:
    model = {"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param]()
    return TransformerBridge(model, tokenizer=tiny_tokenizer())


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(4, 300, (5, 6), generator=torch.Generator().manual_seed(0))


def prepare(bridge: Any, **options: Any) -> LMHFModel:
    lm = LMHFModel(bridge, **options)
    lm.set_inputs_from_tokens(TEMPLATES, TARGETS)
    return lm


def expected_losses(bridge: Any, lm: Any, ids: torch.Tensor, loss: HookLoss) -> torch.Tensor:
    """One candidate and one template at a time, by way of the bridge alone."""
    rows = []
    for number in range(len(TEMPLATES)):
        filled = lm._token_input_manager.get_triggered_inputs(number, ids).input_ids
        caches = [bridge.run_with_cache(row[None])[1] for row in filled]
        rows.append(torch.cat([loss.objective(cache[loss.hook_name]) for cache in caches]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_reads_what_the_bridge_shows(bridge: Any, ids: torch.Tensor, name: str) -> None:
    loss = HookLoss(name, total_norm)
    lm = prepare(bridge)
    expected = expected_losses(bridge, lm, ids, loss)
    found = lm.compute_loss_from_tokens(ids, loss, keep_message_dim=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(expected.unique()) > 5


@pytest.mark.parametrize("name", NAMES[:-1])
def test_gradients_go_through_the_activation(bridge: Any, name: str) -> None:
    """Against finite differences in the embeddings of the trigger."""
    bridge.original_model.double()
    lm, loss = prepare(bridge), HookLoss(name, total_norm)
    ids = torch.randint(4, 300, (1, 4), generator=torch.Generator().manual_seed(1))
    embeds = lm._embed(ids)
    direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(2)).double()
    # Norms of Llama compute in float32 whatever the weights are.
    step = 1e-3
    ends = [
        lm.compute_grad_from_embeds(loss, embeds + sign * step * direction, return_loss=True)[1]
        for sign in (1, -1)
    ]
    slope = float((ends[0] - ends[1]).sum()) / (2 * step)
    grad = lm.compute_grad_from_embeds(loss, embeds)
    assert float((grad * direction).sum()) == pytest.approx(slope, rel=1e-2, abs=1e-5)
    assert abs(slope) > 1e-3
    of_tokens = lm.compute_grad_from_tokens(loss, ids)
    torch.testing.assert_close(of_tokens, grad @ lm.embedding_matrix.mT, atol=1e-6, rtol=1e-5)


def test_what_lies_before_the_embeddings_has_no_gradient(bridge: Any, ids: torch.Tensor) -> None:
    lm = prepare(bridge)
    with pytest.raises(RequirementError, match=r"did not come by \['hook_embed'\]"):
        lm.compute_grad_from_tokens(HookLoss("hook_embed", total_norm), ids)


def test_only_the_blocks_before_it_are_computed(bridge: Any, ids: torch.Tensor) -> None:
    blocks = [bridge.original_model.get_submodule(name) for name in _block_paths(bridge)]
    calls: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, n=n: calls.append(n))
        for n, block in enumerate(blocks)
    ]
    lm = prepare(bridge)
    lm.compute_loss_from_tokens(ids, HookLoss("blocks.0.hook_resid_post", total_norm))
    assert set(calls) == {0}
    both = CombinedLoss([HookLoss("blocks.0.hook_resid_post", total_norm), PrefillCELoss()])
    lm.compute_loss_from_tokens(ids, both)
    assert set(calls) == {0, 1}
    for handle in handles:
        handle.remove()


def _block_paths(bridge: Any) -> list[str]:
    prefix = "model.layers" if hasattr(bridge.original_model, "model") else "transformer.h"
    return [f"{prefix}.{n}" for n in range(2)]


def test_losses_join_with_those_of_logits(bridge: Any, ids: torch.Tensor) -> None:
    lm = prepare(bridge)
    # What follows is the target, where another loss has it prefilled.
    parts = [HookLoss(name, lambda value: total_norm(value[:, :12])) for name in NAMES[:2]]
    parts = [*parts, PrefillCELoss()]
    alone = [lm.compute_loss_from_tokens(ids, loss) for loss in parts]
    joined = lm.compute_loss_from_tokens(ids, CombinedLoss(parts, weights=[1.0, 2.0, -1.0]))
    torch.testing.assert_close(joined, alone[0] + 2 * alone[1] - alone[2], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [GCGOptimizer, PEZOptimizer])
def test_optimizers_follow_an_activation(bridge: Any, optimizer: Any) -> None:
    lm, loss = LMHFModel(bridge), HookLoss("blocks.0.hook_resid_post", total_norm)
    assert check_compatibility(lm, optimizer, loss).compatible
    few = {"n_candidates": 16, "sample_topk": 16} if optimizer is GCGOptimizer else {}
    made = optimizer(lm, loss, num_steps=4, seed=0, **few)
    before = bridge.original_model.state_dict()
    result = made.optimize_trigger(TEMPLATES, "a b c d", TARGETS)
    assert result.best_loss <= result.initial_loss
    after = bridge.original_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_plain_model_is_refused_before_a_step_with_the_remedy() -> None:
    lm = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    loss = HookLoss("blocks.0.hook_resid_post", total_norm)
    with pytest.raises(RequirementError, match=r"make it of a bridge, LMHFModel\(pellucid.bridge"):
        GCGOptimizer(lm, loss)
    lm.set_inputs_from_tokens(TEMPLATES, TARGETS)
    with pytest.raises(RequirementError, match="Make the model of one"):
        lm.compute_loss_from_tokens(torch.tensor([[5, 6]]), loss)


def test_misspelt_names_and_objectives_of_another_shape_are_refused(
    bridge: Any, ids: torch.Tensor
) -> None:
    lm = prepare(bridge)
    with pytest.raises(KeyError, match=r"blocks\.0\.hook_resid_post"):
        lm.compute_loss_from_tokens(ids, HookLoss("blocks.0.hook_resid_prost", total_norm))
    with pytest.raises(ValueError, match="one number for each of 5 samples"):
        lm.compute_loss_from_tokens(ids, HookLoss(NAMES[0], torch.mean))
    assert bridge.list_hooks() == {}


def test_hooks_of_the_bridge_act_in_every_pass(bridge: Any, ids: torch.Tensor) -> None:
    lm, plain = prepare(bridge), PrefillCELoss()
    as_it_is = lm.compute_loss_from_tokens(ids, plain)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    with ablate_direction(bridge, direction):
        ablated = lm.compute_loss_from_tokens(ids, plain)
        filled = lm._token_input_manager.get_triggered_inputs(0, ids)
        target = filled.message_targets.target_response_toks
        whole = torch.cat([filled.input_ids, target.expand(len(ids), len(target))], dim=1)
        logits = bridge(whole)
        expected = _prefill_loss(logits, target)
        grad = lm.compute_grad_from_tokens(plain, ids[:1])
    assert not ablated.allclose(as_it_is, atol=1e-3)
    first = prepare(bridge)
    first.set_inputs_from_tokens(TEMPLATES[:1], Targets(target_response_strs=["Yes, it is."]))
    with ablate_direction(bridge, direction):
        torch.testing.assert_close(
            first.compute_loss_from_tokens(ids, plain), expected, atol=1e-4, rtol=1e-5
        )
    assert not grad.allclose(lm.compute_grad_from_tokens(plain, ids[:1]), atol=1e-5)
    torch.testing.assert_close(lm.compute_loss_from_tokens(ids, plain), as_it_is)


def _prefill_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    n = len(target)
    rows = logits[:, -n - 1 : -1]
    return torch.nn.functional.cross_entropy(
        rows.mT, target.expand(len(rows), n), reduction="none"
    ).mean(dim=1)


def test_answers_are_those_of_the_hooked_model(bridge: Any) -> None:
    lm = prepare(bridge)
    far = 50 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    plain = lm.invoke_from_texts(["Tell me"], require_generation=True, max_new_tokens=5)
    with add_direction(bridge, "blocks.1.hook_resid_post", far):
        pushed = lm.invoke_from_texts(["Tell me"], require_generation=True, max_new_tokens=5)
    assert plain.generated_response_strs != pushed.generated_response_strs


def test_a_linearised_model_is_bridged_and_attacked(ids: torch.Tensor) -> None:
    bridge = TransformerBridge(make_tptt(), tokenizer=tiny_tokenizer())
    lm = prepare(bridge)
    loss = HookLoss("blocks.1.hook_resid_post", total_norm)
    expected = expected_losses(bridge, lm, ids, loss)
    found = lm.compute_loss_from_tokens(ids, loss, keep_message_dim=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    result = GCGOptimizer(
        lm, loss, num_steps=3, n_candidates=8, sample_topk=8, seed=0
    ).optimize_trigger(TEMPLATES, "a b c", TARGETS)
    assert result.best_loss <= result.initial_loss
