"""Names: canonical, aliases, short; what a filter selects; what the facade says of them."""

import time
from typing import Any

import pytest
import torch

from pellucid.bridge import HookNameError, TransformerBridge, get_act_name


def test_every_alias_leads_to_one_activation(bridge: TransformerBridge) -> None:
    table = bridge.hook_table()
    for alias, name in table.aliases.items():
        assert table.resolve(alias) == name
        assert bridge.hook_dict[alias] is bridge.hook_dict[name]
        assert bridge.get_hook_point(alias) is bridge.get_hook_point(name)
    assert [p.name for p in bridge.hook_points()] == list(table)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("resid_post", 0), "blocks.0.hook_resid_post"),
        (("resid_post", -1), "blocks.1.hook_resid_post"),
        (("pattern", 1), "blocks.1.attn.hook_pattern"),
        (("scale", 0, "ln1"), "blocks.0.ln1.hook_scale"),
        ("k1", "blocks.1.attn.hook_k"),
        ("pre0", "blocks.0.mlp.hook_pre"),
        ("embed", "hook_embed"),
        ("scale", "ln_final.hook_scale"),
        ("resid_pre1", "blocks.1.hook_resid_pre"),
    ],
)
def test_short_keys(bridge: TransformerBridge, key: Any, name: str) -> None:
    table = bridge.hook_table()
    assert table.resolve(key) == table.resolve(name)
    assert bridge.explain(key).meaning


def test_short_names_written_out() -> None:
    assert get_act_name("attn_scores", 2) == "blocks.2.attn.hook_attn_scores"
    assert get_act_name("normalized", 27, "ln2") == "blocks.27.ln2.hook_normalized"
    assert get_act_name("blocks.0.hook_out") == "blocks.0.hook_out"


@pytest.mark.parametrize("key", [("resid_post", 7), ("nothing", 0), "blocks.0.hook_nothing"])
def test_an_unknown_key_is_refused(bridge: TransformerBridge, key: Any) -> None:
    with pytest.raises(HookNameError, match="no activation") as caught:
        bridge.hook_table().resolve(key)
    assert isinstance(caught.value, (KeyError, AttributeError))
    assert bridge.get_hook_point("blocks.0.hook_nothing") is None


def test_filters_of_all_kinds(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    def names(names_filter: Any) -> list[str]:
        return list(bridge.run_with_cache(tokens, names_filter=names_filter)[1])

    table = bridge.hook_table()
    pattern = "blocks.0.attn.hook_pattern"
    assert names(pattern) == [pattern]
    assert names(("pattern", 0)) == [pattern]
    assert names([("pattern", 0), "hook_embed"]) == ["embed.hook_out", pattern]
    assert names({"hook_embed", "embed.hook_out"}) == ["embed.hook_out"]
    # Functions are asked about aliases as well.
    assert names(lambda name: name == "blocks.1.hook_resid_post") == ["blocks.1.hook_out"]
    assert names(None) == bridge.select_names()
    assert names(lambda name: False) == []
    assert names([]) == []
    assert all(table[n].gate is None for n in names(lambda name: "attn" in name))
    with pytest.raises((ValueError, TypeError)):
        names(3)


def test_a_cache_as_a_dictionary_has_aliases_that_share_memory(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    _, held = bridge.run_with_cache(tokens, return_cache_object=False)
    assert isinstance(held, dict)
    assert held["blocks.0.hook_resid_post"] is held["blocks.0.hook_out"]


def test_shapes_are_those_that_the_table_says(
    bridge: TransformerBridge, tokens: torch.Tensor
) -> None:
    cfg = bridge.cfg
    sizes = {"batch": 2, "pos": 7, "d_model": cfg.d_model, "d_vocab": cfg.d_vocab}
    sizes |= {"d_head": cfg.d_head, "d_mlp": cfg.d_mlp or 4 * cfg.d_model}
    _, cache = bridge.run_with_cache(tokens)
    for name, held in cache.items():
        if ".qkv." in name:
            continue  # Three projections side by side, which the table gives no axis of its own.
        axes = bridge.explain(name).shape.split()
        assert len(axes) == held.ndim, name
        for axis, size in zip(axes, held.shape, strict=True):
            assert size in (sizes.get(axis, size), 1), (name, axis)


def test_looking_up_an_alias_takes_less_than_a_microsecond(bridge: TransformerBridge) -> None:
    table = bridge.hook_table()
    name = next(iter(table.aliases))

    def once() -> float:
        start = time.process_time()
        for _ in range(2000):
            table._canonical.get(name)
        return (time.process_time() - start) / 2000

    assert min(once() for _ in range(5)) < 1e-6


def test_parts_by_name(llama: TransformerBridge) -> None:
    model = llama.original_model
    assert llama.blocks[0].attn.original_component is model.model.layers[0].self_attn
    assert llama.blocks[0].attn.q.original_component is model.model.layers[0].self_attn.q_proj
    assert llama.blocks[0].attn.head_dim == 8
    assert llama.embed.original_component is model.model.embed_tokens
    assert llama.blocks[-1].hook_resid_post is llama.hook_dict["blocks.1.hook_out"]
    assert len(llama.blocks) == len(list(llama.blocks)) == 2
    assert "blocks.0.attn" in llama.mod_dict
    assert "blocks.0.hook_out" in llama.mod_dict
    assert llama.real_components["blocks"][0] == "model.layers"
    with pytest.raises(AttributeError):
        getattr(llama.blocks[0].attn, "nothing_of_this_name")  # noqa: B009
    with pytest.raises(AttributeError):
        getattr(llama, "nothing_of_this_name")  # noqa: B009


def test_what_blocks_consist_of(llama: TransformerBridge) -> None:
    assert llama.layer_types() == ["attn+mlp", "attn+mlp"]
    assert set(llama.block_submodules(0)) == {"attn", "ln1", "ln2", "mlp"}
    assert "hook_resid_mid" in llama.block_hooks(-1)
    assert llama.block_hooks(0) == sorted(llama.block_hooks(0))
    assert [number for number, _ in llama.blocks_with("attn")] == [0, 1]
    assert llama.blocks_with("mixer") == []
    labels = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    assert llama.all_head_labels == llama.attn_head_labels == labels
    with pytest.raises(ValueError, match="no block"):
        llama.block_hooks(2)


def test_the_tree_shows_one_block_of_each_kind(llama: TransformerBridge) -> None:
    text = str(llama)
    assert "blocks.0: LlamaDecoderLayer -> model.layers.0" in text
    assert "blocks.1" not in text
    assert "      q: Linear -> model.layers.0.self_attn.q_proj" in text


def test_weights_are_the_models(llama: TransformerBridge, gpt2: TransformerBridge) -> None:
    model = llama.original_model
    assert dict(llama.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert list(llama.state_dict()) == list(model.state_dict())
    llama.load_state_dict(model.state_dict())
    assert gpt2.n_params_total == sum(p.numel() for p in gpt2.original_model.parameters())
    holder = torch.nn.ModuleDict({"held": llama})
    assert sum(p.numel() for p in holder.parameters()) == llama.n_params_total


def test_moves_and_modes_are_the_models(llama: TransformerBridge) -> None:
    assert not llama.training
    llama.train()
    assert llama.training
    assert llama.original_model.model.layers[0].training
    llama.eval()
    assert not llama.original_model.training
    llama.to(torch.float64)
    assert llama.cfg.dtype == torch.float64
    assert llama.original_model.lm_head.weight.dtype == torch.float64
    assert llama.cpu() is llama
