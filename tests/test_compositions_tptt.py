"""A model with linear attention, looked into, patched, and searched for triggers."""

from typing import Any

import pytest
import torch

from pellucid.bridge import HookLoss, TransformerBridge
from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import ActivationSource, Targets
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.optimizers import GCGOptimizer
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer
from pellucid.tptt import TpttConfig, TpttModel, get_memory_state, set_mag_weight

GATE, STATE, READ, SHARE = (
    f"blocks.0.linear_attn.hook_{name}" for name in ("gate", "state", "out", "mag_weight")
)
TEMPLATE = f"Tell me {P} now"
TARGETS = Targets(target_response_strs=["Yes."])


def make_bridge(kind: str = "llama", **settings: Any) -> TransformerBridge:
    base = {"llama": tiny_llama, "gpt2": tiny_gpt2}[kind]()
    given = {"mag_weight": 0.5, "max_chunk_size": 4, **settings}
    model = TpttModel(TpttConfig(base.config, **given), backbone=base).eval()
    return TransformerBridge(model, tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def bridge() -> TransformerBridge:
    return make_bridge()


def draw(n: int, *, rows: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, 300, (rows, n), generator=torch.Generator().manual_seed(seed))


def run(bridge: Any, ids: torch.Tensor, *hooks: Any, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return bridge.run_with_hooks(ids, fwd_hooks=hooks, **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("mode", ["delta_rule", "delta_product_2_kv", "delta_rule_gelu"])
@pytest.mark.parametrize("n", [6, 70])
def test_what_is_shown_is_what_is_remembered(kind: str, mode: str, n: int) -> None:
    bridge, ids = make_bridge(kind, operator_mode=mode), draw(n)
    with torch.no_grad():
        plain, cache = bridge(ids, return_type="logits_and_cache")
        logits, held = bridge.run_with_cache(ids, use_cache=True)
        # Runs that keep no cache have a state, too.
        _, other = bridge.run_with_cache(ids, use_cache=False)
    assert logits.equal(plain) or logits.allclose(plain, atol=1e-5)
    remembered = get_memory_state(cache)
    for layer in range(2):
        state = held[f"blocks.{layer}.linear_attn.hook_state"]
        torch.testing.assert_close(state, remembered[layer]["recurrent_state"])
        torch.testing.assert_close(state, other[f"blocks.{layer}.linear_attn.hook_state"])
    assert held[GATE].shape[2] == n
    assert 0 < held[GATE].min() < held[GATE].max() < 1
    assert held[SHARE].unique().tolist() == [0.5]


def test_the_table_names_what_modules_name(bridge: Any) -> None:
    sources = [m for m in bridge.original_model.modules() if isinstance(m, ActivationSource)]
    named = [name for module in sources for name in module.named_activations()]
    assert len(named) == 2 * 4
    for number in range(2):
        assert {f"blocks.{number}.{name}" for name in named} <= set(bridge.hook_table())


def test_a_gate_of_zero_writes_nothing(bridge: Any) -> None:
    ids = draw(7)
    with bridge.hooks([(GATE, lambda gate, hook: gate * 0)]), torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    # Gates are kept a little above zero.
    assert cache[STATE].abs().max() < 1e-4 < make_bridge().run_with_cache(ids)[1][STATE].abs().max()


def test_the_share_is_changed_for_single_tokens(bridge: Any) -> None:
    ids = draw(8)
    names = [f"blocks.{layer}.linear_attn.hook_mag_weight" for layer in range(2)]
    off = [(name, lambda share, hook: share * 0) for name in names]
    expected = run(bridge, ids, *off)
    set_mag_weight(bridge.original_model, 0.0)
    torch.testing.assert_close(run(bridge, ids), expected)
    set_mag_weight(bridge.original_model, 0.5)

    def off_at_the_end(share: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([share[:, :-1], share[:, -1:] * 0], dim=1)

    half = run(bridge, ids, (names[1], off_at_the_end))
    whole = run(bridge, ids)
    assert half[:, :-1].equal(whole[:, :-1]) or half[:, :-1].allclose(whole[:, :-1], atol=1e-5)
    assert not half[:, -1].allclose(whole[:, -1], atol=1e-3)


def test_an_edited_state_reaches_what_goes_on_from_it(bridge: Any) -> None:
    ids = draw(6)
    clean, others = ids[:, :4], draw(4, seed=1)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(others, use_cache=True)
    patch = [
        (f"blocks.{layer}.linear_attn.hook_state", lambda state, hook: cache[hook.name])
        for layer in range(2)
    ]
    first, kept = run(bridge, clean, *patch, return_type="logits_and_cache")
    plain, before = run(bridge, clean, return_type="logits_and_cache")
    assert first.equal(plain) or first.allclose(plain, atol=1e-6)
    patched, untouched = (
        run(bridge, ids[:, 4:], past_key_values=held, use_cache=True) for held in (kept, before)
    )
    torch.testing.assert_close(untouched, run(bridge, ids)[:, 4:], atol=1e-4, rtol=1e-4)
    assert not patched.allclose(untouched, atol=1e-3)


def test_hooks_act_on_every_step_of_decoding(bridge: Any) -> None:
    seen: list[Any] = []
    look = [(GATE, lambda gate, hook: seen.append((hook.step, gate.shape[2])))]
    with bridge.hooks(look):
        bridge.generate(draw(5, rows=1), max_new_tokens=3, do_sample=False, verbose=False)
    assert [number for _, number in seen] == [5, 1, 1]
    plain = bridge.generate(draw(5, rows=1), max_new_tokens=6, do_sample=False, verbose=False)
    with bridge.hooks([(READ, lambda heads, hook: -9 * heads.roll(1, -1))]):
        changed = bridge.generate(draw(5, rows=1), max_new_tokens=6, do_sample=False, verbose=False)
    assert not torch.equal(plain, changed)


@pytest.mark.parametrize("name", [GATE, STATE, READ])
def test_a_trigger_is_optimised_against_linear_attention(bridge: Any, name: str) -> None:
    loss = HookLoss(name, lambda held: -held.flatten(1).norm(dim=-1))
    model = LMHFModel(bridge)
    search = GCGOptimizer(model, loss, num_steps=3, n_candidates=16, sample_topk=16, seed=0)
    result = search.optimize_trigger([TEMPLATE], "a b c d", TARGETS)
    assert result.best_loss < result.initial_loss
    model.set_inputs_from_tokens([TEMPLATE], TARGETS)
    ids = torch.tensor([[31, 32, 33, 34]])
    embeds = model._embed(ids)
    direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(0))
    ends = [
        model.compute_grad_from_embeds(loss, embeds + sign * 2e-3 * direction, return_loss=True)[1]
        for sign in (1, -1)
    ]
    slope = float(ends[0] - ends[1]) / 4e-3
    grad = model.compute_grad_from_embeds(loss, embeds)
    assert float((grad * direction).sum()) == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_a_trigger_found_on_the_linear_model_is_one_of_the_bridged_model(bridge: Any) -> None:
    """The model itself, and the same through a bridge, take the same steps."""
    found = []
    for backend in (bridge, bridge.original_model):
        model = LMHFModel(backend, tokenizer=tiny_tokenizer())
        search = GCGOptimizer(
            model, PrefillCELoss(), num_steps=3, n_candidates=16, sample_topk=16, seed=0
        )
        found.append(search.optimize_trigger([TEMPLATE], "a b c d", TARGETS))
    assert found[0].best_trigger_str == found[1].best_trigger_str
    assert found[0].losses == pytest.approx(found[1].losses, rel=1e-5)
    assert found[0].best_loss < found[0].initial_loss


def test_without_a_linear_branch_nothing_of_it_is_shown() -> None:
    assert not any("linear_attn" in name for name in make_bridge(mag_weight=0.0).hook_table())
