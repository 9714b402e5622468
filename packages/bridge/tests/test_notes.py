"""Runs that only read: their notes, what is derived of them, and the hooks that take them."""

import pickle
from typing import Any

import pytest
import torch
from tiny_cases import CASES, make_model
from torch import nn

from pellucid.bridge import HookError, TransformerBridge
from pellucid.bridge._engine._notes import NotePlan
from pellucid.bridge._engine._torch_hooks import HookSet
from pellucid.testing import tiny_llama

DICTIONARIES = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


def _note(*seen: Any) -> None:
    return None


def _hooks_of(module: nn.Module) -> list[list[Any]]:
    return [list(getattr(module, name).values()) for name in DICTIONARIES]


def test_hooks_are_put_where_torch_puts_them_when_they_are_registered() -> None:
    ours, theirs = nn.Linear(2, 2), nn.Linear(2, 2)
    theirs.register_forward_pre_hook(_note, with_kwargs=True)
    theirs.register_forward_hook(_note, with_kwargs=True)
    untouched = _hooks_of(ours)
    hooks = HookSet([(ours, "before", _note), (ours, "after", _note)])
    assert _hooks_of(ours) == untouched
    hooks.install()
    assert _hooks_of(ours) == _hooks_of(theirs) != untouched
    hooks.remove()
    assert _hooks_of(ours) == untouched


def test_hooks_of_others_and_of_several_users_stay() -> None:
    module = nn.Linear(2, 2)
    handle = module.register_forward_hook(_note)
    hooks = HookSet([(module, "after", _note)])
    hooks.install()
    hooks.install()
    hooks.remove()
    assert len(module._forward_hooks) == 2
    another = module.register_forward_hook(_note)
    hooks.remove()
    assert list(module._forward_hooks) == [handle.id, another.id]


def test_a_second_run_compiles_nothing(
    bridge: TransformerBridge, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern"]
    with torch.no_grad():
        bridge.run_with_cache(tokens)
        bridge.run_with_cache(tokens, names_filter=names)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("compiled again")

        monkeypatch.setattr(NotePlan, "__init__", refuse)
        bridge.run_with_cache(tokens)
        bridge.run_with_cache(tokens, names_filter=names[::-1])


def test_a_cache_of_everything_leaves_the_logits_alone_bit_for_bit(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(bridge.run_with_cache(tokens)[0], bridge(tokens))


def test_what_is_cached_holds_no_graph(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    logits, cache = bridge.run_with_cache(tokens)
    assert logits.requires_grad
    assert not any(value.requires_grad for value in cache.values())
    kept = [v for v in cache.cache_dict._notes if isinstance(v, torch.Tensor)]
    assert kept
    assert not any(value.requires_grad for value in kept)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_derived_is_derived_once(
    bridge: TransformerBridge, tokens: torch.Tensor, mode: Any
) -> None:
    with mode():
        _, cache = bridge.run_with_cache(tokens)
    for name in ("blocks.0.attn.hook_pattern", "blocks.0.ln1.hook_scale", "blocks.0.attn.hook_q"):
        assert cache[name] is cache[name]


def test_what_is_derived_of_a_tensor_written_into_is_refused(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
        early = cache["blocks.0.ln1.hook_scale"].clone()
        for written, derived in (
            ("blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized"),
            ("blocks.1.attn.hook_rot_q", "blocks.1.attn.hook_pattern"),
        ):
            cache[written].zero_()
            with pytest.raises(HookError, match="written into"):
                cache[derived]
    assert torch.equal(cache["blocks.0.ln1.hook_scale"], early)


class _Writing(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        made = self.inner(stream)
        stream.mul_(2)
        return made


def test_a_model_that_writes_into_what_it_has_made_is_caught(tokens: torch.Tensor) -> None:
    model = tiny_llama()
    model.model.layers[1].mlp = _Writing(model.model.layers[1].mlp)
    bridge = TransformerBridge(model)
    with torch.no_grad(), pytest.raises(HookError, match="writes_in_place"):
        bridge.run_with_cache(tokens, names_filter=lambda n: "blocks.1.ln2" in n)


def test_patterns_in_training_draw_no_random_numbers_when_they_are_read(
    gpt2: TransformerBridge, tokens: torch.Tensor
) -> None:
    gpt2.train()
    for module in gpt2.original_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(tokens)
        state = torch.get_rng_state()
        pattern = cache["pattern", 1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 4, 7))


def test_weights_that_change_later_do_not_change_what_was_cached(tokens: torch.Tensor) -> None:
    (case,) = [case for case in CASES if case.kind == "GptOssForCausalLM"]
    bridge = TransformerBridge(make_model(case).requires_grad_(False))
    bridge.set_use_attn_result(True)
    names = [f"blocks.0.attn.{n}" for n in ("hook_pattern", "hook_result")]
    tokens = tokens % 90
    _, cache = bridge.run_with_cache(tokens, names_filter=names)
    _, expected = bridge.run_with_cache(tokens, names_filter=names)
    expected = {name: expected[name].clone() for name in names}
    attention = bridge.blocks[0].attn.original_component
    attention.sinks.add_(3)
    attention.o_proj.weight.zero_()
    for name in names:
        torch.testing.assert_close(cache[name], expected[name], atol=0, rtol=0)


def test_patterns_under_autocast_are_those_of_the_run(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        _, cache = llama.run_with_cache(tokens)
        seen: dict[str, torch.Tensor] = {}
        llama.run_with_hooks(
            tokens, [(("pattern", 0), lambda v, hook: seen.update(pattern=v.clone()))]
        )
    torch.testing.assert_close(cache["pattern", 0], seen["pattern"])


def test_noted_activations_are_a_dictionary_like_any(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    with torch.no_grad():
        _, cache = llama.run_with_cache(tokens)
        held = cache.cache_dict
    n, name = len(held), "blocks.0.ln1.hook_scale"
    assert list(held) == llama.select_names()
    held["mine"] = torch.ones(1)
    del held[name]
    assert len(held) == n
    assert name not in held
    assert "mine" in held
    with pytest.raises(KeyError):
        held[name]
    again = pickle.loads(pickle.dumps(held))
    assert set(again) == set(held)
    assert torch.equal(again["blocks.1.attn.hook_pattern"], held["blocks.1.attn.hook_pattern"])
    assert "activations" in repr(held)
