"""Inputs, return types, losses, gradients, and runs of some blocks."""

from typing import Any

import pytest
import torch

from pellucid.bridge import StopAtLayerException, TransformerBridge, lm_cross_entropy_loss
from pellucid.testing import tiny_llama


def test_inputs_of_all_kinds_agree(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    expected = bridge.original_model(tokens).logits
    assert torch.equal(bridge(tokens), expected)
    torch.testing.assert_close(bridge(tokens[0])[0], expected[0])
    embeds = bridge.original_model.get_input_embeddings()(tokens)
    torch.testing.assert_close(bridge(embeds), expected)
    text = "Tell me about it."
    assert torch.equal(bridge(text), bridge(bridge.to_tokens(text)))
    with pytest.raises(ValueError, match="must be text"):
        bridge(3)


def test_return_types(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    logits, loss = bridge(tokens, return_type="both")
    assert torch.equal(bridge(tokens, return_type="loss"), loss)
    torch.testing.assert_close(bridge(tokens, return_type="loss", loss_per_token=True).mean(), loss)
    assert bridge(tokens, return_type=None) is None
    again, past = bridge(tokens, return_type="logits_and_cache")
    torch.testing.assert_close(again, logits)
    following = bridge(tokens[:, :1], past_key_values=past)
    whole = bridge(torch.cat([tokens, tokens[:, :1]], 1))
    torch.testing.assert_close(following[:, 0], whole[:, -1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="return_type"):
        bridge(tokens, return_type="nonsense")
    with pytest.raises(ValueError, match="predictions"):
        bridge(tokens, return_type="predictions")
    with pytest.raises(ValueError, match="tokens to be predicted"):
        bridge(torch.randn(1, 3, bridge.cfg.d_model), return_type="loss")


def naive_loss(logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    terms = [
        -logits[b, p].log_softmax(-1)[tokens[b, p + 1]]
        for b in range(tokens.shape[0])
        for p in range(tokens.shape[1] - 1)
        if mask[b, p] and mask[b, p + 1]
    ]
    return torch.stack(terms).mean()


def test_padding_does_not_count_in_the_loss(bridge: TransformerBridge) -> None:
    texts = ["Tell me about the weather.", "Hi."]
    for side in ("left", "right"):
        batch = bridge.encode_batch(texts, padding_side=side)
        assert batch.attention_mask is not None
        logits, loss = bridge(texts, return_type="both", padding_side=side)
        torch.testing.assert_close(loss, naive_loss(logits, batch.tokens, batch.attention_mask))
        shown = bridge(
            batch.tokens, return_type="loss", attention_mask=batch.attention_mask, **batch.positions
        )
        torch.testing.assert_close(shown, loss)


def test_padded_rows_equal_their_texts_alone(bridge: TransformerBridge) -> None:
    texts = ["Tell me about the weather.", "Hi."]
    for side in ("left", "right"):
        batch = bridge.encode_batch(texts, padding_side=side)
        assert batch.attention_mask is not None
        together, cache = bridge.run_with_cache(texts, padding_side=side)
        for row, text in enumerate(texts):
            kept = batch.attention_mask[row].bool()
            alone, single = bridge.run_with_cache(text)
            torch.testing.assert_close(together[row][kept], alone[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                cache["resid_post", 1][row][kept], single["resid_post", 1][0], atol=1e-4, rtol=1e-4
            )
            pattern = cache["pattern", 1][row][:, kept][:, :, kept]
            torch.testing.assert_close(pattern, single["pattern", 1][0], atol=1e-4, rtol=1e-4)


def test_the_loss_of_one_position_is_that_of_the_next_token() -> None:
    logits, tokens = torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5))
    expected = naive_loss(logits, tokens, torch.ones(2, 5))
    torch.testing.assert_close(lm_cross_entropy_loss(logits, tokens), expected)


# Some blocks only.


def count_blocks(bridge: TransformerBridge, run: Any) -> list[int]:
    calls = [0] * len(bridge.blocks)
    handles = []
    for number, block in enumerate(bridge.blocks):
        module = block.attn.original_component

        def note(module: Any, args: Any, number: int = number) -> None:
            calls[number] += 1

        handles.append(module.register_forward_pre_hook(note))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def test_blocks_are_truly_skipped(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    _, cache = bridge.run_with_cache(tokens)
    residual = cache["resid_pre", 1]
    bridge(residual, start_at_layer=1)  # The first time, what a block returns is looked at.
    assert count_blocks(bridge, lambda: bridge(tokens)) == [1, 1]
    assert count_blocks(bridge, lambda: bridge(tokens, stop_at_layer=1)) == [1, 0]
    assert count_blocks(bridge, lambda: bridge(tokens, stop_at_layer=0)) == [0, 0]
    assert count_blocks(bridge, lambda: bridge(residual, start_at_layer=1)) == [0, 1]
    both = {"start_at_layer": 1, "stop_at_layer": 1}
    assert count_blocks(bridge, lambda: bridge(residual, **both)) == [0, 0]


def test_runs_of_some_blocks_join_up(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    logits, cache = bridge.run_with_cache(tokens)
    for layer in (0, 1):
        residual = bridge(tokens, stop_at_layer=layer)
        torch.testing.assert_close(residual, cache["resid_pre", layer], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            bridge(residual, start_at_layer=layer), logits, atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            bridge(residual, start_at_layer=layer - 2), logits, atol=1e-4, rtol=1e-4
        )
    last = bridge(tokens, stop_at_layer=2)
    torch.testing.assert_close(last, cache["resid_post", -1], atol=1e-4, rtol=1e-4)
    embed, same, _, _ = bridge.input_to_embed(tokens)
    torch.testing.assert_close(embed, cache["resid_pre", 0])
    assert torch.equal(same, tokens)


def test_a_run_of_some_blocks_caches_these_alone(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    residual, cache = bridge.run_with_cache(tokens, stop_at_layer=1)
    assert residual.shape == (2, 7, bridge.cfg.d_model)
    assert {bridge.explain(name).layer for name in cache} == {None, 0}
    _, cache = bridge.run_with_cache(residual, start_at_layer=1)
    assert {bridge.explain(name).layer for name in cache} == {None, 1}
    assert "embed.hook_out" not in cache


def test_layers_that_do_not_exist_are_refused(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="stop_at_layer=3"):
        bridge(tokens, stop_at_layer=3)
    with pytest.raises(ValueError, match="start_at_layer"):
        bridge(torch.randn(1, 2, bridge.cfg.d_model), start_at_layer=2)
    with pytest.raises(ValueError, match="residual stream"):
        bridge(tokens, start_at_layer=1)
    assert StopAtLayerException(tokens).layer_output is tokens


# Gradients.


def test_cached_gradients_are_those_of_autograd(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    model = llama.original_model
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            output.retain_grad()
            kept[name] = output

        return hook

    handles = [
        model.model.layers[0].register_forward_hook(keep("blocks.0.hook_out")),
        model.model.layers[1].mlp.register_forward_hook(keep("blocks.1.mlp.hook_out")),
        model.model.norm.register_forward_hook(keep("ln_final.hook_out")),
    ]
    logits = model(tokens).logits
    lm_cross_entropy_loss(logits, tokens).backward()
    for handle in handles:
        handle.remove()
    _, cache = llama.run_with_cache(
        tokens, names_filter=list(kept), incl_bwd=True, return_type="loss"
    )
    for name, value in kept.items():
        torch.testing.assert_close(cache[f"{name}_grad"], value.grad)
        torch.testing.assert_close(cache[name], value.detach())


def test_a_gradient_needs_one_number(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="one number"):
        bridge.run_with_cache(tokens, incl_bwd=True)
    with torch.no_grad(), pytest.raises(ValueError, match="one number"):
        bridge.run_with_cache(tokens, incl_bwd=True, return_type="loss")


def test_the_gradient_of_every_point_equals_finite_differences() -> None:
    bridge = TransformerBridge(tiny_llama(dtype=torch.float64, num_hidden_layers=1))
    tokens = torch.randint(5, 300, (1, 4), generator=torch.Generator().manual_seed(0))
    for name in bridge.hook_table():
        if name == "embed.hook_in":
            continue
        _, cache = bridge.run_with_cache(
            tokens, names_filter=name, incl_bwd=True, return_type="loss"
        )
        value, gradient = cache[name], cache[f"{name}_grad"]
        assert gradient.shape == value.shape
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double()
        if "hook_attn_in" in name:  # Heads that share a key can only move together.
            direction = direction[..., :1, :].expand_as(value)
        if name.endswith("attn_scores"):
            direction = direction.tril()
        step = 1e-3

        def loss(sign: float, name: str = name, change: torch.Tensor = direction * step) -> float:
            edit = [(name, lambda v, hook: v + sign * change)]
            with torch.no_grad():
                return float(bridge.run_with_hooks(tokens, fwd_hooks=edit, return_type="loss"))

        slope = (loss(1.0) - loss(-1.0)) / (2 * step)
        expected = float((gradient * direction).sum())
        # Some layers compute in float32 whatever the model's dtype.
        assert slope == pytest.approx(expected, rel=3e-2, abs=5e-3), name


def test_a_gradient_hook_may_replace_the_gradient(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    weight = bridge.original_model.get_input_embeddings().weight
    with bridge.hooks(
        bwd_hooks=[("blocks.0.hook_resid_post", lambda gradient, hook: gradient * 0)]
    ):
        _, cache = bridge.run_with_cache(
            tokens, names_filter="blocks.0.hook_resid_pre", incl_bwd=True, return_type="loss"
        )
    assert not cache["blocks.0.hook_in_grad"].any()
    assert weight.grad is not None


# What a cache keeps.


@pytest.mark.parametrize("pos", [3, -1, slice(1, 4), (1, 4), [0, 5]])
def test_a_cache_of_some_positions(
    bridge: TransformerBridge, tokens: torch.Tensor, pos: Any
) -> None:
    _, whole = bridge.run_with_cache(tokens)
    _, some = bridge.run_with_cache(tokens, pos_slice=pos)
    at = slice(*pos) if isinstance(pos, tuple) else pos
    torch.testing.assert_close(some["resid_post", 0], whole["resid_post", 0][:, at])
    torch.testing.assert_close(some["q", 0], whole["q", 0][:, at])
    torch.testing.assert_close(some["pattern", 0], whole["pattern", 0][:, :, at])
    with pytest.raises(ValueError, match="pos_slice"):
        bridge.run_with_cache(tokens, pos_slice="x")


def test_a_cache_on_another_device(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    _, cache = bridge.run_with_cache(tokens, device="meta")
    assert {held.device.type for held in cache.values()} == {"meta"}
    assert bridge.device.type == "cpu"


def test_a_cache_of_one_sample_without_its_axis(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    _, cache = bridge.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert cache["resid_post", 0].shape == (7, bridge.cfg.d_model)
    assert cache["pattern", 0].shape == (4, 7, 7)


def test_a_cache_takes_no_more_memory_than_its_tensors(
    llama: TransformerBridge, tokens: torch.Tensor
) -> None:
    with torch.no_grad():
        _, cache = llama.run_with_cache(tokens)
    places = {held.untyped_storage().data_ptr() for held in cache.values()}
    same = ("blocks.0.hook_out", "blocks.1.hook_in", "blocks.1.ln1.hook_in")
    assert len({cache[name].data_ptr() for name in same}) == 1
    assert len(places) < 0.8 * len(cache)


def test_a_cache_is_a_mapping(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    _, cache = bridge.run_with_cache(tokens, names_filter=["hook_embed", ("resid_post", 0)])
    assert "blocks.0.hook_resid_post" in cache
    assert ("resid_post", 0) in cache
    assert "blocks.1.hook_resid_post" not in cache
    with pytest.raises(KeyError):
        cache["blocks.1.hook_resid_post"]
    assert len(cache) == 2
    assert not cache["embed"].requires_grad
    assert cache.to("meta")["embed"].device.type == "meta"
