"""What can be seen and changed on the way through linear attention, by torch's own hooks."""

import pytest
import torch

from pellucid.core import ActivationSource
from pellucid.testing import tiny_llama
from pellucid.tptt import TpttConfig, TpttModel, get_memory_state


@pytest.fixture(scope="module")
def model() -> TpttModel:
    base = tiny_llama()
    return TpttModel(TpttConfig(base.config, mag_weight=0.5), backbone=base).eval()


def named(model: TpttModel) -> dict[str, torch.nn.Module]:
    sources = (m for m in model.modules() if isinstance(m, ActivationSource))
    return {n: a.module for m in sources for n, a in m.named_activations().items()}


def watch(module: torch.nn.Module, seen: list[torch.Tensor]):
    return module.register_forward_hook(lambda _, args, output: seen.append(output))


@pytest.mark.parametrize("n", [5, 64, 65, 100])
def test_all_tokens_are_shown_at_once(model: TpttModel, n: int) -> None:
    ids = torch.randint(4, 300, (2, n), generator=torch.Generator().manual_seed(0))
    gates, states = [], []
    signals = named(model)
    with torch.no_grad():
        plain = model(ids, use_cache=True)
        handles = [
            watch(signals["linear_attn.hook_gate"], gates),
            watch(signals["linear_attn.hook_state"], states),
        ]
        watched = model(ids, use_cache=True)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(watched.logits, plain.logits, atol=1e-5, rtol=1e-4)
    # The last layer's, as the names of layers are the bridge's.
    assert [tuple(gate.shape) for gate in gates] == [(2, 2, n, 8)]
    held = get_memory_state(plain.past_key_values)[1]["recurrent_state"]
    (state,) = states
    torch.testing.assert_close(state, held, atol=1e-5, rtol=1e-4)
    # What was watched can be gone on from, and its tokens taken back.
    with torch.no_grad():
        watched.past_key_values.crop(-1)
        again = model(ids[:, -1:], past_key_values=watched.past_key_values, use_cache=True).logits
    torch.testing.assert_close(again[:, -1], plain.logits[:, -1], atol=1e-4, rtol=1e-3)


def test_nobody_watches_nothing_is_made(model: TpttModel) -> None:
    share = named(model)["linear_attn.hook_mag_weight"]
    assert not share.is_watched
    ids = torch.tensor([[5, 6, 7]])
    seen: list[torch.Tensor] = []
    plain = model(ids).logits
    handle = watch(share, seen)
    assert model(ids).logits.equal(plain)
    handle.remove()
    assert [tuple(value.shape) for value in seen] == [(1, 3, 1)]
