"""A run leaves nothing behind, sees its own hooks alone, and its edits are exact."""

import threading
from typing import Any

import pytest
import torch

from pellucid.bridge import HookError, HookNameError, TransformerBridge
from pellucid.testing import tiny_llama


class BoomError(Exception):
    pass


def explode(value: Any, hook: Any) -> None:
    raise BoomError(hook.name)


def zero(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return torch.zeros_like(value)


def all_names(bridge: TransformerBridge) -> list[str]:
    return list(bridge.hook_table())


def test_without_hooks_the_logits_are_the_models_bit_for_bit(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    assert torch.equal(bridge(tokens), bridge.original_model(tokens).logits)


def test_without_hooks_no_torch_hook_is_installed(
    bridge: TransformerBridge, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a hook was installed")

    monkeypatch.setattr(torch.nn.Module, "register_forward_hook", refuse)
    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", refuse)
    assert bridge(tokens).shape == (2, 7, bridge.cfg.d_vocab)


def test_a_cache_of_everything_leaves_the_model_as_it_was(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any
) -> None:
    with unchanged(bridge.original_model):
        bridge.run_with_cache(tokens)


def test_a_hook_that_raises_at_any_point_leaves_the_model_as_it_was(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any
) -> None:
    with unchanged(bridge.original_model):
        for name in all_names(bridge):
            with pytest.raises(BoomError):
                bridge.run_with_hooks(tokens, fwd_hooks=[(name, explode)])
    assert torch.equal(bridge(tokens), bridge.original_model(tokens).logits)


def test_a_gradient_hook_that_raises_leaves_the_model_as_it_was(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any
) -> None:
    with unchanged(bridge.original_model):
        loss = bridge.run_with_hooks(
            tokens, bwd_hooks=[("blocks.0.hook_resid_post", explode)], return_type="loss"
        )
        with pytest.raises(BoomError):
            loss.backward()
    bridge.original_model.zero_grad()


@pytest.mark.parametrize("options", [{"stop_at_layer": 1}, {"stop_at_layer": 0}])
def test_stopping_leaves_the_model_as_it_was(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any, options: Any
) -> None:
    with unchanged(bridge.original_model):
        bridge.run_with_cache(tokens, **options)


def test_a_failing_run_that_skips_blocks_leaves_the_model_as_it_was(
    bridge: TransformerBridge, unchanged: Any
) -> None:
    residual = torch.randn(1, 4, bridge.cfg.d_model)
    with unchanged(bridge.original_model):
        with pytest.raises(BoomError):
            bridge.run_with_hooks(
                residual, [("blocks.1.attn.hook_pattern", explode)], start_at_layer=1
            )
        bridge(residual, start_at_layer=1)


def test_generation_leaves_the_model_as_it_was(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any
) -> None:
    with unchanged(bridge.original_model):
        bridge.generate(tokens, max_new_tokens=2, return_cache=True, stop_at_eos=False)
        with bridge.hooks([("blocks.0.hook_attn_out", explode)]), pytest.raises(BoomError):
            bridge.generate(tokens, max_new_tokens=2, stop_at_eos=False)


def test_a_hook_may_run_the_bridge_itself(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    other = torch.flip(tokens, [1])
    expected = bridge.run_with_cache(other)[1]["resid_post", 0]
    calls: list[torch.Tensor] = []

    def patch(value: torch.Tensor, hook: Any) -> torch.Tensor:
        logits, cache = bridge.run_with_cache(other)
        calls.append(logits)
        return cache["resid_post", 0]

    logits = bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_post", patch)])
    # A nested run that saw the outer hooks would never end.
    assert len(calls) == 1
    torch.testing.assert_close(calls[0], bridge(other), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, bridge(expected, start_at_layer=1), atol=1e-4, rtol=1e-4)


def test_two_bridges_over_one_model_do_not_see_each_others_hooks(tokens: torch.Tensor) -> None:
    model = tiny_llama()
    first, second = TransformerBridge(model), TransformerBridge(model)
    seen: list[str] = []
    first.add_hook("blocks.0.hook_resid_post", lambda value, hook: seen.append("first"))
    second.add_hook("blocks.0.attn.hook_pattern", lambda value, hook: seen.append("second"))
    second(tokens)
    assert seen == ["second"]
    first(tokens)
    assert seen == ["second", "first"]

    def nested(value: torch.Tensor, hook: Any) -> None:
        second(tokens)

    seen.clear()
    first.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", nested)])
    assert seen == ["first", "second"]


def test_threads_with_hooks_of_their_own_get_results_of_their_own(
    bridge: TransformerBridge, tokens: torch.Tensor, unchanged: Any
) -> None:
    edits = {
        "blocks.0.attn.hook_pattern": zero,
        "blocks.1.attn.hook_attn_scores": lambda value, hook: value * 0.5,
        "blocks.0.hook_resid_mid": lambda value, hook: value * 2,
        "blocks.1.mlp.hook_post": zero,
    }
    expected = {n: bridge.run_with_hooks(tokens, fwd_hooks=[(n, e)]) for n, e in edits.items()}
    plain = bridge(tokens)
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(5):
            edited = bridge.run_with_hooks(tokens, fwd_hooks=[(name, edits[name])])
            if not torch.allclose(edited, expected[name], atol=1e-5):
                wrong.append(name)
            if not torch.allclose(bridge(tokens), plain, atol=1e-5):
                wrong.append("plain")

    with unchanged(bridge.original_model):
        threads = [threading.Thread(target=work, args=(name,)) for name in edits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_hooks_run_in_the_order_in_which_they_were_attached(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    seen: list[str] = []

    def note(mark: str) -> Any:
        return lambda value, hook: seen.append(mark)

    name = "blocks.0.hook_resid_post"
    bridge.add_hook(name, note("second"))
    bridge.add_hook(name, note("third"))
    bridge.add_hook(name, note("first"), prepend=True)
    with bridge.hooks([(name, note("fourth"))]), bridge.hooks([(name, note("fifth"))]):
        bridge.run_with_hooks(tokens, fwd_hooks=[(name, note("sixth"))])
    assert seen == ["first", "second", "third", "fourth", "fifth", "sixth"]


def test_a_cache_holds_what_the_hooks_before_it_have_made(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    bridge.add_hook("blocks.0.hook_attn_out", zero)
    _, cache = bridge.run_with_cache(tokens)
    assert not cache["attn_out", 0].any()
    torch.testing.assert_close(cache["resid_mid", 0], cache["resid_pre", 0])


def test_activations_come_in_the_order_of_the_table(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    seen: list[str] = []
    bridge.run_with_hooks(
        tokens, fwd_hooks=[(lambda n: True, lambda v, hook: seen.append(hook.name))]
    )
    assert set(seen) == set(bridge.select_names())
    blocks = [int(name.split(".")[1]) for name in seen if name.startswith("blocks.")]
    assert blocks == sorted(blocks)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda value: value[:, :-1], "returned shape"),
        (lambda value: value.repeat(2, 1, 1), "returned shape"),
        (lambda value: "text", "returned a str"),
        (lambda value: (value, value), "returned a tuple"),
    ],
)
def test_a_replacement_that_does_not_fit_is_refused(
    bridge: TransformerBridge, tokens: torch.Tensor, made: Any, complaint: str
) -> None:
    with pytest.raises(HookError, match=complaint):
        bridge.run_with_hooks(
            tokens, fwd_hooks=[("blocks.0.hook_resid_post", lambda value, hook: made(value))]
        )


def test_a_replacement_that_broadcasts_is_taken(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    width = bridge.cfg.d_model
    narrow = bridge.run_with_hooks(
        tokens, fwd_hooks=[("blocks.0.hook_attn_out", lambda value, hook: torch.ones(width))]
    )
    wide = bridge.run_with_hooks(
        tokens, fwd_hooks=[("blocks.0.hook_attn_out", lambda value, hook: torch.ones_like(value))]
    )
    torch.testing.assert_close(narrow, wide)


def test_a_hook_may_write_in_place(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    def write(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[:, 1] = 0.0
        return value

    def copy(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[:, 1] = 0.0
        return value

    with torch.no_grad():
        for name in ("blocks.1.hook_resid_pre", "blocks.0.mlp.hook_post", "blocks.0.attn.hook_z"):
            written = bridge.run_with_hooks(tokens, fwd_hooks=[(name, write)])
            copied = bridge.run_with_hooks(tokens, fwd_hooks=[(name, copy)])
            torch.testing.assert_close(written, copied)


def test_identity_edits_change_nothing_and_others_do(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    plain = bridge(tokens)
    for name, spec in bridge.hook_table().items():
        if name.endswith("embed.hook_in"):
            continue
        same = bridge.run_with_hooks(tokens, fwd_hooks=[(name, lambda v, hook: v.clone())])
        torch.testing.assert_close(same, plain, atol=2e-5, rtol=1e-4, msg=name)
        noise = torch.Generator().manual_seed(0)
        other = bridge.run_with_hooks(
            tokens,
            fwd_hooks=[(name, lambda v, hook, g=noise: v + torch.randn(v.shape, generator=g))]
            if "hook_attn_in" not in name or bridge.cfg.n_key_value_heads is None
            else [(name, lambda v, hook: v * 2 + 1)],
        )
        assert not torch.allclose(other, plain, atol=1e-4), f"{name}: {spec.meaning}"


def test_an_edit_of_the_middle_stream_reaches_the_skip_connection_and_the_mlp(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    delta = torch.randn(bridge.cfg.d_model)
    kept: dict[str, torch.Tensor] = {}

    def keep(value: torch.Tensor, hook: Any) -> None:
        kept[hook.name] = value

    bridge.run_with_hooks(
        tokens,
        fwd_hooks=[
            ("blocks.0.hook_resid_mid", lambda value, hook: value + delta),
            ("blocks.0.hook_resid_mid", keep),
            ("blocks.0.hook_mlp_out", keep),
            ("blocks.0.hook_resid_post", keep),
        ],
    )
    _, cache = bridge.run_with_cache(tokens)
    resid_mid = kept["blocks.0.hook_resid_mid"]
    mlp_out = kept[bridge.hook_table().resolve("blocks.0.hook_mlp_out")]
    resid_post = kept[bridge.hook_table().resolve("blocks.0.hook_resid_post")]
    torch.testing.assert_close(resid_mid, cache["resid_mid", 0] + delta)
    torch.testing.assert_close(resid_post, resid_mid + mlp_out)
    assert not torch.allclose(mlp_out, cache["mlp_out", 0])


def test_an_unknown_name_is_refused_with_near_ones(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    with pytest.raises(HookNameError, match=r"blocks\.0\.hook_resid_post"):
        bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_pots", zero)])
    with pytest.raises(KeyError):
        bridge.run_with_cache(tokens, names_filter=["blocks.9.hook_resid_post"])
    with pytest.raises(HookNameError):
        bridge.add_hook("nothing", zero)


def test_a_hook_that_is_no_function_is_refused(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    wrong: Any = 3
    with pytest.raises((ValueError, TypeError), match=r"function|Callable"):
        bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_post", wrong)])
    with pytest.raises((ValueError, TypeError), match=r"function|Callable"):
        bridge.add_hook("blocks.0.hook_resid_post", wrong)


def test_gradient_checkpointing_sees_each_activation(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    plain = llama(tokens, return_type="loss")
    llama.original_model.activation_checkpointing_enable()
    llama.train()
    loss, cache = llama.run_with_cache(
        tokens, names_filter="blocks.0.hook_resid_post", return_type="loss"
    )
    torch.testing.assert_close(loss, plain)
    assert len(cache) == 1
