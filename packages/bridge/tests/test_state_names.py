"""State dictionaries under both namings: nothing lost, nothing too much."""

import pytest
import torch
from tiny_cases import CASES, make_model

from pellucid.bridge import StateDictError, TransformerBridge
from pellucid.testing import tiny_gpt2, tiny_llama

PER_CASE = pytest.mark.parametrize("case", CASES, ids=str)
TL = "transformer_lens"


def _copy(state):
    return {name: value.clone() for name, value in state.items()}


def _scramble(model):
    with torch.no_grad():
        for held in [*model.parameters(), *model.buffers()]:
            if held.is_floating_point():
                held.copy_(torch.randn(held.shape))


def _equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@PER_CASE
def test_nothing_is_lost_in_either_naming(case):
    bridge = TransformerBridge(make_model(case))
    model = bridge.original_model
    expected = _copy(model.state_dict())
    assert _equal(bridge.state_dict(), expected)
    named = _copy(bridge.state_dict(names=TL))
    assert sum(v.numel() for v in named.values()) == sum(v.numel() for v in expected.values())
    for state in (named, _copy(expected)):
        _scramble(model)
        bridge.load_state_dict(state)
        assert _equal(model.state_dict(), expected)
    # Both namings in one dictionary.
    halves = {n: v for n, v in expected.items() if n.startswith(("lm_head", "cls"))}
    mixed = {n: v for n, v in named.items() if not n.startswith("unembed")} | halves
    if case.kind != "MarianMTModel":  # Its head holds no entry that starts so.
        _scramble(model)
        bridge.load_state_dict(mixed | {n: v for n, v in named.items() if n not in mixed})
        assert _equal(model.state_dict(), expected)


def test_the_names_are_those_of_transformer_lens():
    named = TransformerBridge(tiny_gpt2()).state_dict(names=TL)
    block = {n.removeprefix("blocks.0.") for n in named if n.startswith("blocks.0.")}
    attention = {f"attn.{w}_{letter}" for w in "Wb" for letter in "QKVO"}
    mlp = {f"mlp.{w}_{way}" for w in "Wb" for way in ("in", "out")}
    assert block == attention | mlp | {f"ln{i}.{w}" for i in (1, 2) for w in "wb"}
    outside = {n for n in named if not n.startswith("blocks.")}
    assert outside == {"embed.W_E", "pos_embed.W_pos", "ln_final.w", "ln_final.b", "unembed.W_U"}


def test_loading_is_strict(llama):
    named = _copy(llama.state_dict(names=TL))
    before = _copy(llama.state_dict())
    less = {n: v * 2 for n, v in named.items() if n != "blocks.1.attn.W_K"}
    with pytest.raises(StateDictError, match=r"missing: blocks\.1\.attn\.k\.weight; unknown: noth"):
        llama.load_state_dict(less)
    more = {**named, "blocks.0.attn.W_R": named["embed.W_E"]}
    with pytest.raises(RuntimeError, match=r"missing: nothing; unknown: blocks\.0\.attn\.W_R"):
        llama.load_state_dict(more)
    assert _equal(llama.state_dict(), before)
    found = llama.load_state_dict({**less, "other": torch.zeros(1)}, strict=False)
    assert found.missing_keys == ["model.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(llama.blocks[0].attn.W_Q, 2 * named["blocks.0.attn.W_Q"])
    assert torch.equal(llama.blocks[1].attn.W_K, named["blocks.1.attn.W_K"])


def test_a_part_of_a_fused_projection_is_a_part(gpt2):
    named = _copy(gpt2.state_dict(names=TL))
    less = {n: v for n, v in named.items() if n != "blocks.0.attn.W_K"}
    with pytest.raises(StateDictError, match=r"missing: blocks\.0\.attn\.qkv\.weight;"):
        gpt2.load_state_dict(less)
    new = torch.randn_like(named["blocks.0.attn.W_K"])
    gpt2.load_state_dict({"blocks.0.attn.W_K": new}, strict=False)
    assert torch.equal(gpt2.blocks[0].attn.W_K, new)
    assert torch.equal(gpt2.blocks[0].attn.W_Q, named["blocks.0.attn.W_Q"])


def test_shapes_and_contradictions_are_refused():
    bridge = TransformerBridge(tiny_gpt2())
    named = _copy(bridge.state_dict(names=TL))
    flat = {**named, "blocks.0.attn.W_Q": named["blocks.0.attn.W_Q"].flatten(0, 1)}
    with pytest.raises(StateDictError, match=r"W_Q is of shape \(128, 8\), the model's is \(4, 32"):
        bridge.load_state_dict(flat)
    # A bias that broadcasts is no bias of this shape either.
    with pytest.raises(StateDictError, match="b_Q is of shape"):
        bridge.load_state_dict({**named, "blocks.0.attn.b_Q": torch.zeros(1, 8)})
    assert bridge.original_model.lm_head.weight is bridge.original_model.transformer.wte.weight
    with pytest.raises(StateDictError, match="are one parameter of the model"):
        bridge.load_state_dict({**named, "embed.W_E": named["embed.W_E"] + 1})
    with pytest.raises(ValueError, match="'model' or 'transformer_lens', got 'hf'"):
        bridge.state_dict(names="hf")


def test_a_model_is_loaded_from_another_ones_names():
    first, second = TransformerBridge(tiny_llama(seed=1)), TransformerBridge(tiny_llama(seed=2))
    tokens = torch.tensor([[5, 6, 7]])
    assert not torch.equal(first(tokens), second(tokens))
    second.load_state_dict(first.state_dict(names=TL))
    assert torch.equal(first(tokens), second(tokens))


def test_processed_weights_go_into_a_processed_model():
    first, second = TransformerBridge(tiny_gpt2(seed=1)), TransformerBridge(tiny_gpt2(seed=2))
    first.process_weights()
    second.process_weights()
    second.load_state_dict(first.state_dict(names=TL))
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(first(tokens), second(tokens))
