"""The names of tptt 0.12, and what was never in tptt."""

from datetime import date

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from pellucid.core import ArgumentError, RequirementError
from pellucid.testing import tiny_llama
from pellucid.tptt import (
    AttentionLayout,
    ModeError,
    construct_causal_forward_solver,
    fast_invert_matrix,
    find_targets,
    get_memory_state,
    get_model_name,
    get_tptt_model,
    list_liza,
    load_tptt_safetensors,
    register_attention_adapter,
    render_template,
    save_tptt_safetensors,
    set_memory_state,
    set_trainable_parameters,
)
from pellucid.tptt import _layouts as layouts


def test_a_solver_has_another_name():
    assert construct_causal_forward_solver is fast_invert_matrix


def test_a_name_says_what_a_model_was_made_with():
    expected = "liza_lora_mag_causal_alpha-c_beta-k_order-2_linear_trick-rot"
    assert get_model_name(order=2, trick="rotative", add_date=False) == expected
    assert get_model_name(order=2, trick="rot") == f"{expected}_{date.today().isoformat()}"
    given = get_model_name(False, True, True, 1, "k", "v", False, "dt", "mine", False)
    assert given == "mine_cross_bidirectional_alpha-k_beta-v_order-1_gelu_trick-dt"
    with pytest.raises(ModeError, match="trick 'spin' is not known"):
        get_model_name(trick="spin")


def test_only_what_matches_is_trained():
    model = tiny_llama()
    assert set_trainable_parameters(model) is model
    trained = {name.split(".")[-2] for name, w in model.named_parameters() if w.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj"}
    set_trainable_parameters(model, [r"layers\.0\..*up_proj"])
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained == ["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(ArgumentError, match=r"matches one of \['nothing'\]"):
        set_trainable_parameters(model, ["nothing"])


def test_a_template_is_filled_in(tmp_path):
    path = tmp_path / "card.md"
    path.write_text("# {{ model_id }}: {{ loss }}{{ nothing }}")
    assert render_template(str(path), {"model_id": "a", "loss": 1.5}) == "# a: 1.5"


class _Odd(nn.Module):
    """An attention module with a layout of its own."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.all_in_one = nn.Linear(8, 24)
        self.mixer = nn.Linear(8, 8)

    def forward(self, hidden_states, attention_mask=None):
        q, k, v = (x.unflatten(2, (2, 4)).mT for x in self.all_in_one(hidden_states).chunk(3, -1))
        del q, k
        return self.mixer(v.mT.flatten(2))


def test_an_unknown_layout_can_be_described(monkeypatch):
    monkeypatch.setattr(layouts, "_REGISTERED", {})
    model = nn.ModuleDict({"0": nn.ModuleDict({"attn": _Odd()})})
    config = tiny_llama(num_attention_heads=2, num_key_value_heads=2, hidden_size=8).config
    with pytest.raises(RequirementError, match="Describe others with register_attention_adapter"):
        get_tptt_model(model, config, target_modules=["attn"])
    layout = AttentionLayout(
        projections=("all_in_one",), out="mixer", split=lambda sizes, outs: outs[0].chunk(3, -1)
    )
    register_attention_adapter(_Odd, layout)
    assert list(find_targets(model, None)) == ["0.attn"]
    get_tptt_model(model, config, target_modules=["attn"])
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    mixed = model["0"]["attn"](x)
    list_liza(model)[0].disable_linear_attn = True
    assert mixed.shape == x.shape
    assert not torch.allclose(model["0"]["attn"](x), mixed)
    with pytest.raises(ArgumentError, match="names one projection or more"):
        register_attention_adapter("Odd", AttentionLayout(projections=(), out=None, split=max))


@torch.no_grad()
def test_memory_can_be_kept_from_one_session_to_the_next(prompt):
    base = tiny_llama()
    model, _ = get_tptt_model(base, base.config, mag_weight=1.0)
    whole, cache = model(prompt, use_cache=False).logits, DynamicCache(config=base.config)
    model(prompt[:, :7], past_key_values=cache)
    kept = get_memory_state(cache)
    assert sorted(kept) == [0, 1]
    assert sorted(kept[0]) == ["began", "recurrent_state", "windows"]
    later = DynamicCache(config=base.config)
    set_memory_state(later, kept)
    # with no share of softmax attention, memory is all there is
    rest = model(prompt[:, 7:], past_key_values=later).logits
    torch.testing.assert_close(rest, whole[:, 7:], atol=3e-5, rtol=3e-5)
    with pytest.raises(ArgumentError, match="no layer 2"):
        set_memory_state(later, {2: kept[0]})
    cache.crop(-1)
    with pytest.raises(ArgumentError, match="tokens were taken back"):
        get_memory_state(cache)


def test_files_may_lie_in_a_folder_below(tmp_path):
    base = tiny_llama()
    model, _ = get_tptt_model(base, base.config)
    save_tptt_safetensors(model, str(tmp_path / "deep"), "model.safetensors")
    other, _ = get_tptt_model(tiny_llama(3), base.config)
    assert load_tptt_safetensors(str(tmp_path), other) is None
    assert load_tptt_safetensors(str(tmp_path), other, subfolder="deep") is other
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
