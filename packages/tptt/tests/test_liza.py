"""Models of every architecture, with linear attention in them."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from pellucid.core import ArgumentError, RequirementError
from pellucid.testing import tiny_bert, tiny_llama
from pellucid.tptt import (
    LinearAttention,
    LiZAttention,
    NoTargetError,
    find_targets,
    get_tptt_model,
    set_mag_weight,
)

PAD = 3
VARIANTS = {
    "inside": {"operator_mode": "delta_rule"},
    "outside": {"operator_mode": "delta_product_c", "cross_gate": True, "base_scale_attn": True},
    "windowed": {
        "operator_mode": "delta_rule_gelu",
        "max_chunk_size": 4,
        "max_self_attn_length": 5,
    },
}


def convert(model, **options):
    return get_tptt_model(model, model.config, **options)[0]


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=3e-5, rtol=3e-5)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


@torch.no_grad()
def test_decoding_and_padding_change_nothing(lm_name, make_lm, variant, prompt):
    model = convert(make_lm(lm_name), **variant)
    whole = model(prompt, use_cache=False).logits
    first = model(prompt[:, :6], use_cache=True)
    steps, cache = [first.logits], first.past_key_values
    for at in range(6, 11):
        step = model(prompt[:, at : at + 1], past_key_values=cache, use_cache=True)
        steps.append(step.logits)
    close(torch.cat(steps, dim=1), whole)
    mask = torch.ones_like(prompt)
    none = torch.zeros_like(prompt[:, :PAD])
    left = torch.cat((none, mask), dim=1)
    places = (left.cumsum(1) - 1).clamp_min(0)
    padded = torch.cat((none, prompt), dim=1)
    out = model(padded, attention_mask=left, position_ids=places, use_cache=False)
    close(out.logits[:, PAD:], whole)
    out = model(
        torch.cat((prompt, none), dim=1),
        attention_mask=torch.cat((mask, none), dim=1),
        use_cache=False,
    )
    close(out.logits[:, :-PAD], whole)


@torch.no_grad()
def test_without_a_share_it_is_the_base_model_bit_for_bit(lm_name, make_lm, prompt, monkeypatch):
    base = make_lm(lm_name)
    expected = base(prompt).logits
    model = convert(copy.deepcopy(base), mag_weight=0.0)
    monkeypatch.setattr(LinearAttention, "read_heads", None)  # nobody may call it
    assert torch.equal(model(prompt).logits, expected)


@pytest.mark.parametrize("mixture", [{}, {"cross_gate": True}, {"base_scale_attn": True}])
@torch.no_grad()
def test_the_mixture_is_its_definition(mixture, prompt):
    base = tiny_llama(attention_bias=True)
    attn = base.model.layers[0].self_attn
    liza = LiZAttention(copy.deepcopy(attn), 0, base.config, mag_weight=0.3, **mixture)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    places = base.model.rotary_emb(x, torch.arange(9)[None])
    softmax, _ = attn(x, position_embeddings=places, attention_mask=None)
    projected = [attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)]
    linear = liza.linear_attn(projected, out_proj=attn.o_proj)
    if "base_scale_attn" in mixture:
        linear = linear * (softmax.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = 0.7 * softmax + 0.3 * linear
    if "cross_gate" in mixture:
        expected = expected + (0.7 * softmax) * (0.3 * linear)
    out, _ = liza(x, position_embeddings=places, attention_mask=None)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_projections_are_computed_once(prompt):
    model = convert(tiny_llama())
    counts = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, *_: counts.append(module))
    model(prompt)
    assert len(counts) == len(set(counts)) == 2 * 7 + 1


@torch.no_grad()
def test_both_ways_to_mix_agree(prompt, monkeypatch):
    model = convert(tiny_llama(attention_bias=True))
    inside = model(prompt).logits
    monkeypatch.setattr(LiZAttention, "_can_mix_inside", lambda _: False)
    close(model(prompt).logits, inside)


@torch.no_grad()
def test_an_encoder_reads_in_both_directions(prompt):
    model = convert(tiny_bert(), bidirectional=True)
    ids = prompt % 200
    whole = model(ids).last_hidden_state
    padded = torch.cat((ids, torch.zeros_like(ids[:, :PAD])), dim=1)
    mask = torch.ones_like(padded)
    mask[:, -PAD:] = 0
    close(model(padded, attention_mask=mask).last_hidden_state[:, :-PAD], whole)
    changed = ids.clone()
    changed[:, -1] += 1
    assert not torch.allclose(model(changed).last_hidden_state[:, 0], whole[:, 0])


@torch.no_grad()
def test_a_window_of_one_is_each_token_by_itself(prompt):
    model = convert(tiny_llama(), max_self_attn_length=1, mag_weight=0.0)
    alone = model(prompt[:, 4:5], position_ids=torch.tensor([[4]] * 2), use_cache=False)
    close(model(prompt).logits[:, 4:5], alone.logits)


def test_gradients_reach_every_weight(prompt):
    model = convert(tiny_llama()).train()
    model(prompt, labels=prompt).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@torch.no_grad()
def test_a_copy_reads_its_own_projections(prompt):
    model = convert(tiny_llama())
    expected = model(prompt).logits
    other = copy.deepcopy(model)
    for weight in model.parameters():
        weight.zero_()
    assert torch.equal(other(prompt).logits, expected)


@torch.no_grad()
def test_replaced_projections_are_read(prompt):
    model = convert(tiny_llama())
    expected = model(prompt).logits
    attn = model.model.layers[0].self_attn.base_attn
    attn.k_proj = nn.Sequential(attn.k_proj)
    assert torch.equal(model(prompt).logits, expected)
    assert not attn.k_proj[0]._forward_hooks


def test_a_wrapper_stands_in_the_mode_of_its_module():
    model = tiny_llama()
    assert not convert(model).model.layers[0].self_attn.training


def test_the_names_of_weights_stay_below_base_attn():
    names = set(tiny_llama().state_dict())
    converted = {name.replace(".base_attn", "") for name in convert(tiny_llama()).state_dict()}
    assert converted == names


@torch.no_grad()
def test_the_share_can_be_set_for_all_layers(prompt):
    model = convert(tiny_llama())
    set_mag_weight(model, 0.0)
    assert torch.equal(model(prompt).logits, tiny_llama()(prompt).logits)
    with pytest.raises(ArgumentError, match=r"mag_weight must be from 0 to 1, got 1.5"):
        set_mag_weight(model, 1.5)


@pytest.mark.parametrize(
    ("suffixes", "found"),
    [
        (None, ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]),
        (["attention"], ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]),
        (["0.attention.self"], ["encoder.layer.0.attention.self"]),
    ],
)
def test_targets_are_the_modules_that_project(suffixes, found):
    assert list(find_targets(tiny_bert(), suffixes)) == found


def test_no_target_is_told_with_what_there_is():
    match = r"no module of \['attn'\]. Its modules are called .*self_attn"
    with pytest.raises(NoTargetError, match=match):
        convert(tiny_llama(), target_modules=["attn"])


def test_a_module_without_projections_is_refused_and_the_model_left_as_it_was():
    model = tiny_llama()
    with pytest.raises(RequirementError, match=r"Unsupported attention module LlamaMLP.*gate_proj"):
        convert(model, target_modules=["self_attn", "mlp"])
    assert not any(isinstance(module, LiZAttention) for module in model.modules())


def test_linear_attention_is_put_in_once():
    with pytest.raises(ArgumentError, match="has linear attention already"):
        convert(convert(tiny_llama()))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_self_attn_length": 0}, "max_self_attn_length must be 1 or more, got 0"),
        ({"linear_precision": "float31"}, "no dtype is called 'float31'"),
        ({"mag_weight": -0.1}, "mag_weight must be from 0 to 1"),
        ({"operator_mode": "delta"}, "Unknown mode"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ArgumentError, match=match):
        convert(tiny_llama(), **options)


COMPILED = """
import torch
from pellucid.testing import tiny_llama
from pellucid.tptt import RECURRENT_MODES, LinearAttentionOp, get_tptt_model
inputs = [torch.rand(1, 2, 20, 4) for _ in range(4)]
for mode in RECURRENT_MODES:
    op = LinearAttentionOp(0, mode, max_chunk_size=8)
    out = torch.compile(op, backend="eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(out, op(*inputs))
model = tiny_llama(num_hidden_layers=1)
get_tptt_model(model, model.config)
ids = torch.arange(5, 15)[None]
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
out = compiled(ids, use_cache=False).logits
torch.testing.assert_close(out, model(ids, use_cache=False).logits)
"""


def test_operators_and_a_model_are_compiled_without_a_break():
    """In a process of its own: the checks of shapes at run time are breaks themselves."""
    environment = {**os.environ, "PELLUCID_TYPECHECK": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
