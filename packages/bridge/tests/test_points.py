"""Attaching and detaching: handles, levels, permanence, contexts, gates, lists."""

from typing import Any

import pytest
import torch

from pellucid.bridge import HookPoint, TransformerBridge

NAME = "blocks.0.hook_out"


def count(calls: list[str], mark: str) -> Any:
    return lambda value, hook: calls.append(mark)


def test_a_handle_removes_its_function_once(llama: TransformerBridge, tokens: torch.Tensor) -> None:
    calls: list[str] = []
    (handle,) = llama.add_hook(NAME, count(calls, "x"))
    llama(tokens)
    handle.remove()
    handle.remove()
    llama(tokens)
    assert calls == ["x"]


def test_a_handle_may_be_removed_after_a_reset(llama: TransformerBridge) -> None:
    (handle,) = llama.add_hook(NAME, count([], "x"))
    llama.reset_hooks()
    handle.remove()
    assert llama.list_hooks() == {}


def test_the_same_function_twice_is_called_twice_and_removed_by_handle(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    calls: list[str] = []
    function = count(calls, "x")
    (first,) = llama.add_hook(NAME, function)
    llama.add_hook(NAME, function)
    llama(tokens)
    first.remove()
    llama(tokens)
    assert calls == ["x"] * 3


def test_permanent_functions_survive_a_reset(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    calls: list[str] = []
    llama.add_perma_hook(NAME, count(calls, "permanent"))
    llama.add_hook(NAME, count(calls, "passing"))
    llama.reset_hooks()
    llama(tokens)
    assert calls == ["permanent"]
    assert list(llama.list_hooks(including_permanent=False)) == []
    llama.reset_hooks(including_permanent=True)
    llama(tokens)
    assert calls == ["permanent"]


def test_a_reset_takes_one_level_or_one_direction(llama: TransformerBridge) -> None:
    llama.add_hook(NAME, count([], "a"), level=1)
    llama.add_hook(NAME, count([], "b"), level=2)
    llama.add_hook(NAME, count([], "c"), dir="bwd")
    llama.reset_hooks(level=1)
    assert [h.context_level for h in llama.list_hooks()[NAME]] == [2, None]
    llama.reset_hooks(direction="bwd")
    assert [h.context_level for h in llama.list_hooks()[NAME]] == [2]
    llama.reset_hooks()
    assert llama.list_hooks() == {}


def test_a_context_ends_with_its_block_also_after_an_error(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    calls: list[str] = []

    def fail() -> None:
        with llama.hooks([(NAME, count(calls, "x"))]):
            llama(tokens)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    llama(tokens)
    assert calls == ["x"]


def test_a_context_may_leave_its_functions_attached(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    calls: list[str] = []
    with llama.hooks([(NAME, count(calls, "x"))], reset_hooks_end=False):
        llama(tokens)
    llama(tokens)
    assert calls == ["x", "x"]
    llama.reset_hooks()
    llama(tokens)
    assert calls == ["x", "x"]


def test_a_context_takes_only_its_own_functions_away(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    calls: list[str] = []
    llama.add_hook(NAME, count(calls, "mine"))
    llama.run_with_hooks(tokens, fwd_hooks=[(NAME, count(calls, "passing"))])
    llama(tokens)
    assert calls == ["mine", "passing", "mine"]


def test_what_a_function_remembers_lasts_until_it_is_cleared(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    def remember(value: torch.Tensor, hook: HookPoint) -> None:
        hook.ctx["n"] = hook.ctx.get("n", 0) + 1

    for _ in range(2):
        llama.run_with_hooks(tokens, fwd_hooks=[(NAME, remember)])
    assert llama.hook_dict[NAME].ctx == {"n": 2}
    llama.run_with_hooks(tokens, fwd_hooks=[(NAME, remember)], clear_contexts=True)
    assert llama.hook_dict[NAME].ctx == {}


def test_a_point_knows_its_layer(llama: TransformerBridge) -> None:
    assert llama.blocks[1].attn.hook_pattern.layer() == 1
    with pytest.raises(ValueError, match="belongs to no block"):
        llama.hook_dict["embed.hook_out"].layer()


def test_an_unknown_direction_is_refused(llama: TransformerBridge) -> None:
    wrong: Any = "sideways"
    with pytest.raises((ValueError, TypeError), match="sideways"):
        llama.add_hook(NAME, count([], "x"), dir=wrong)
    with pytest.raises((ValueError, TypeError), match="sideways"):
        llama.list_hooks(dir=wrong)


def test_gates_say_what_all_activations_means(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    name = "blocks.0.attn.hook_result"
    assert name not in llama.run_with_cache(tokens)[1].cache_dict
    assert name in llama.run_with_cache(tokens, names_filter=name)[1].cache_dict
    llama.set_use_attn_result(True)
    _, cache = llama.run_with_cache(tokens)
    # Llama's output projection has no bias.
    torch.testing.assert_close(
        cache["result", 0].sum(-2), cache["attn_out", 0], atol=1e-5, rtol=1e-4
    )
    llama.set_use_attn_result(False)
    assert name not in llama.select_names()


def test_two_gates_exclude_each_other(llama: TransformerBridge) -> None:
    llama.set_use_split_qkv_input(True)
    with pytest.raises(ValueError, match="exclude each other"):
        llama.set_use_attn_in(True)
    llama.set_use_split_qkv_input(False)
    llama.set_use_attn_in(True)
    with pytest.raises(ValueError, match="exclude each other"):
        llama.set_use_split_qkv_input(True)
    llama.set_use_hook_mlp_in(True)
    assert "blocks.0.hook_mlp_in" in llama.select_names()


def test_caching_hooks_write_until_they_are_reset(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    held = llama.add_caching_hooks(["embed", ("resid_post", 0)])
    llama(tokens)
    assert set(held) == {"embed.hook_out", "blocks.0.hook_out"}
    llama.reset_hooks()
    held.clear()
    llama(tokens)
    assert held == {}
    everything: dict[str, torch.Tensor] = {}
    llama.cache_all(everything)
    some: dict[str, torch.Tensor] = {}
    llama.cache_some(some, lambda name: name.endswith("hook_pattern"))
    llama(tokens)
    assert set(everything) == set(llama.select_names())
    assert set(some) == {f"blocks.{i}.attn.hook_pattern" for i in range(2)}


def test_caching_hooks_as_pairs(llama: TransformerBridge, tokens: torch.Tensor) -> None:
    held, forward, backward = llama.get_caching_hooks(
        "blocks.0.hook_resid_post", incl_bwd=True, remove_batch_dim=True
    )
    llama.run_with_hooks(tokens[:1], forward, backward, return_type="loss").backward()
    assert {name: t.shape for name, t in held.items()} == {
        NAME: (7, 32),
        f"{NAME}_grad": (7, 32),
    }


def test_threads_of_contexts_do_not_mix(llama: TransformerBridge, tokens: torch.Tensor) -> None:
    import threading

    calls: list[str] = []
    with llama.hooks([(NAME, count(calls, "mine"))]):
        thread = threading.Thread(target=lambda: llama(tokens))
        thread.start()
        thread.join()
    assert calls == []
