"""The modules of tptt 0.12, against what their descriptions say, written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.testing import tiny_bert, tiny_llama
from pellucid.tptt import (
    CausalConv1d,
    MemoryAsGate,
    ModeError,
    TpttConfig,
    TpttModel,
    VirtualTokenExpander,
    expand_virtual_tokens,
    get_tptt_model,
    list_liza,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@given(
    n=st.integers(1, 4),
    mode=st.sampled_from(["dt", "rot", "rdt", "cte", "derivative"]),
    width=st.integers(1, 5),
)
def test_virtual_tokens_have_the_published_values(n, mode, width):
    x = noise(2, 3, 4, width)
    own = {"dt": "derivative", "rot": "rotative", "rdt": "combined"}.get(mode, mode)
    out = VirtualTokenExpander(3, width, n, mode)(x)
    assert out.shape == (2, 3, 4, n, width)
    torch.testing.assert_close(out.flatten(2, 3), expand_virtual_tokens(x, n, own))
    forced = VirtualTokenExpander(3, width, n, "rot")(x, force=mode)
    assert torch.equal(forced, out)


def test_the_terms_of_a_difference_may_begin_with_the_oldest():
    x = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1)
    new = VirtualTokenExpander(1, 1, 3, "dt")(x)
    old = VirtualTokenExpander(1, 1, 3, "dt", flip=False)(x)
    # (1, -2, 1) / 4 on the token, the one before and the one before that
    assert new[0, 0, 2, :, 0].tolist() == [25, -5, 0.25]
    assert old[0, 0, 2, :, 0].tolist() == [0.25, -5, 25]
    turned = VirtualTokenExpander(1, 1, 3, "rot")(x)
    both = VirtualTokenExpander(1, 1, 3, "rdt", flip=False)(x)
    torch.testing.assert_close(both, (old + turned) / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_virtual_tokens_keep_the_dtype(dtype):
    assert VirtualTokenExpander(1, 4, 2)(noise(1, 1, 3, 4).to(dtype)).dtype == dtype


def test_what_cannot_be_expanded_is_refused():
    with pytest.raises(ModeError, match="trick 'spin' is not known"):
        VirtualTokenExpander(2, 4, 2, "spin")
    with pytest.raises(ModeError, match="order must be 1 or more, got 0"):
        VirtualTokenExpander(2, 4, 0)
    with pytest.raises(ArgumentError, match="for 2 heads of width 4, got 3 of 4"):
        VirtualTokenExpander(2, 4, 2)(noise(1, 3, 5, 4))


@given(
    sizes=st.sampled_from([(1, 1), (3, 3), (2, 4), (4, 2), (8, 1)]),
    kernel=st.integers(1, 4),
    dilation=st.integers(1, 3),
    offset=st.integers(0, 3),
    replicate=st.booleans(),
)
def test_a_convolution_is_its_definition(sizes, kernel, dilation, offset, replicate):
    incoming, outgoing = sizes
    mode = "replicate" if replicate else "constant"
    layer = CausalConv1d(incoming, outgoing, kernel, dilation, offset, mode, 0.5).double()
    x = noise(2, incoming, 6)
    out, expected = layer(x), torch.zeros(2, outgoing, 6).double()
    weight, bias = layer.conv1d.weight, layer.conv1d.bias
    seen = weight.shape[1]
    for feature in range(outgoing):
        group = feature // (outgoing // layer.conv1d.groups)
        for at in range(6):
            for tap in range(kernel):
                place = at - offset - (kernel - 1 - tap) * dilation
                before = x[:, :, 0] if replicate else torch.full_like(x[:, :, 0], 0.5)
                source = x[:, :, place] if place >= 0 else before
                own = source[:, group * seen : (group + 1) * seen]
                expected[:, feature, at] += (own * weight[feature, :, tap]).sum(1)
            expected[:, feature, at] += bias[feature]
    torch.testing.assert_close(out, expected)


def test_a_convolution_that_looks_ahead_is_refused():
    with pytest.raises(ArgumentError, match=r"looks back, got \(4, 4, 3, 1, -1\)"):
        CausalConv1d(4, 4, 3, offset=-1)
    with pytest.raises(ArgumentError, match="one of constant, replicate, got 'wrap'"):
        CausalConv1d(4, 4, 3, padding_mode="wrap")


def test_a_constant_gate_is_a_share_that_can_be_set():
    gate, x = MemoryAsGate(mag_ratio=0.3), noise(2, 5, 8)
    assert torch.equal(gate(x), torch.full((2, 5, 1), 0.3, dtype=torch.float64))
    gate.mag_weight = torch.tensor(0.75)
    assert gate.mag_weight == 0.75
    with pytest.raises(ArgumentError, match=r"mag_weight must be from 0 to 1, got 2"):
        gate.mag_weight = 2


def test_a_dynamic_gate_is_learnt_bounded_and_never_looks_ahead():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = MemoryAsGate(8, "dynamic").double()
    x = noise(2, 30, 8)
    share = gate(x)
    assert share.shape == (2, 30, 1)
    conv = gate.dynamic_gate.conv1d
    last = x[:, 14:30].mT  # 16 tokens, up to this one
    logit = (last * conv.weight).sum((1, 2)) + conv.bias
    torch.testing.assert_close(share[:, 29, 0], 0.1 + 0.8 * torch.sigmoid(logit))
    assert (gate(1e3 * x) >= 0.1).all()
    assert (gate(1e3 * x) <= 0.9).all()
    changed = x.clone()
    changed[:, 20:] += 1
    torch.testing.assert_close(gate(changed)[:, :20], share[:, :20])
    share.sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_bad_gates_are_refused():
    with pytest.raises(ArgumentError, match="one of constant, dynamic, got 'other'"):
        MemoryAsGate(8, "other")
    with pytest.raises(ArgumentError, match="Give hidden_dim"):
        MemoryAsGate(mode="dynamic")


def test_the_share_is_found_where_it_was_kept():
    base = tiny_llama()
    model, _ = get_tptt_model(base, base.config, target_modules_names=["self_attn"])
    for module in list_liza(model):
        module.memory_gate.mag_weight = torch.tensor(0.25)
        assert module.mag_weight == 0.25
    with pytest.raises(ArgumentError, match=r"are the same\. Give one"):
        get_tptt_model(tiny_llama(), base.config, target_modules=["a"], target_modules_names=["b"])


def test_a_mode_may_be_given_in_parts():
    base = tiny_llama().config
    config = TpttConfig(
        base, operator_mode=None, order=2, beta_gate="kv", linear=False, trick="rot"
    )
    named = TpttConfig(base, operator_mode="delta_product_kv_gelu_r")
    assert config.operator_mode == named.operator_mode
    assert config.recurrent_config == named.recurrent_config
    assert TpttConfig(base, operator_mode=None, alpha_gate="1").operator_mode == "delta_rule"
    again = TpttConfig.from_dict(config.to_dict())
    assert again.recurrent_config == config.recurrent_config


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha_gate": "k"}, "alpha_gate must be one of 1, c, got 'k'"),
        ({"order": 2, "operator_mode": "delta_product_r"}, "Give one of the three"),
        ({"order": 2, "recurrent_config": {"order": 3}}, "Give one of the three"),
        ({"trick": "spin"}, "trick 'spin' is not known"),
        ({"model_task": "casual_lm"}, "model_task must be one of causal_lm, feature_extraction"),
    ],
)
def test_bad_fields_are_refused(options, match):
    with pytest.raises(ArgumentError, match=match):
        TpttConfig(tiny_llama().config, **options)


@torch.no_grad()
def test_a_base_model_may_have_no_head_and_lie_in_a_folder_below(tmp_path):
    tiny_bert().save_pretrained(tmp_path / "hub" / "deep")
    config = TpttConfig(
        base_model_name=str(tmp_path / "hub"),
        base_model_subfolder="deep",
        model_task="feature_extraction",
        force_attn_implementation="sdpa",
        bidirectional=True,
    )
    model = TpttModel(config).eval()
    ids = torch.arange(5, 15)[None]
    out = model(ids).last_hidden_state
    model.save_pretrained(str(tmp_path / "saved"))
    again = TpttModel.from_pretrained(str(tmp_path / "saved"))
    torch.testing.assert_close(again(ids).last_hidden_state, out)


def test_linear_attention_may_be_computed_twice_to_save_memory(prompt, monkeypatch):
    gradients, calls = [], []
    for use in (False, True):
        base = tiny_llama()
        config = TpttConfig(base.config, use_linear_checkpoint=use)
        model = TpttModel(config, backbone=base).train()
        for module in list_liza(model):
            op = module.linear_attn.linear_operator
            monkeypatch.setattr(
                op, "_run", lambda *a, run=op._run, **k: (calls.append(1), run(*a, **k))[1]
            )
        model(prompt, labels=prompt).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)
    assert len(calls) == 2 + 2 * 2
