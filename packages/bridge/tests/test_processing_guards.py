"""What weight processing refuses: models of which its claims do not hold, by name, unchanged."""

import pytest
import torch
from tiny_cases import find_case, is_as_before, look, make_model, make_strong
from torch import nn

from pellucid.bridge import ArchitectureError, TransformerBridge


class _Skewed(nn.Module):
    """A norm that is none of those known."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return x / x.abs().amax(-1, keepdim=True) * self.weight


def _break_norm(model):
    model.model.layers[1].input_layernorm = _Skewed(32)


def test_unknown_norms_are_refused_by_name():
    model = make_model(find_case("LlamaForCausalLM"))
    _break_norm(model)
    bridge = TransformerBridge(model)
    with pytest.raises(ArchitectureError, match=r"fold_ln.*blocks\.1\.ln1 is a _Skewed"):
        bridge.process_weights(fold_ln=True)
    report = bridge.process_weights()
    assert report.applied == ("center_unembed", "fold_value_biases")


class _Gain(nn.Module):
    """Reads what a projection reads and holds weights in a way of its own."""

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return x * self.gain


class _GainedLinear(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.gain, self.linear = _Gain(linear.in_features), linear
        self.weight = linear.weight

    def forward(self, x):
        return self.linear(self.gain(x))


def test_unknown_readers_are_refused_by_name():
    model = make_model(find_case("LlamaForCausalLM"))
    mlp = model.model.layers[0].mlp
    mlp.up_proj = _GainedLinear(mlp.up_proj)
    with pytest.raises(ArchitectureError, match=r"blocks\.0\.ln2 is read by .*mlp\.up_proj\.gain"):
        TransformerBridge(model).process_weights(fold_ln=True)


class _SkipFromNorm(nn.Module):
    """Attention whose result joins what the norm gives, not the stream."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, **kwargs):
        given, pattern = self.attention(hidden_states=hidden_states, **kwargs)
        return given + hidden_states, pattern


def test_readers_that_are_no_modules_are_found_by_trial():
    model = make_strong(find_case("LlamaForCausalLM"))
    bridge = TransformerBridge(model)
    layer = model.model.layers[1]
    layer.self_attn = _SkipFromNorm(layer.self_attn)
    before = look(model)
    with pytest.raises(ArchitectureError, match=r"not only projections read what blocks\.1\.ln1"):
        bridge.process_weights(fold_ln=True)
    assert is_as_before(model, before)


class _ReadsMean(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + x.mean(-1, keepdim=True) * torch.linspace(-1, 1, x.shape[-1])


def test_readers_of_the_mean_are_found_by_trial():
    model = make_strong(find_case("GPT2LMHeadModel"))
    bridge = TransformerBridge(model)
    model.transformer.h[1].mlp.dropout = _ReadsMean(model.transformer.h[1].mlp.dropout)
    with pytest.raises(
        ArchitectureError, match=r"mean of what blocks\.1\.mlp\.\w_out writes is read"
    ):
        bridge.process_weights(center_writing_weights=True)
    model.lm_head.register_forward_hook(lambda module, args, output: torch.tanh(output))
    with pytest.raises(ArchitectureError, match=r"changed by more than softmax"):
        bridge.process_weights(center_unembed=True)


class _Sneaky(nn.Linear):
    """Reads a norm's weight itself: nothing that a trace could show."""

    norm = ()

    def forward(self, x):
        return super().forward(x) * self.norm[0].weight[0]


def test_what_no_guard_sees_the_probe_does_and_all_is_taken_back():
    model = make_strong(find_case("LlamaForCausalLM"))
    layer = model.model.layers[0]
    layer.mlp.down_proj.__class__ = _Sneaky
    layer.mlp.down_proj.norm = (layer.input_layernorm,)
    layer.input_layernorm.weight[0] = 3.0
    before = look(model)
    bridge = TransformerBridge(model)
    with pytest.raises(ArchitectureError, match=r"changed log-probabilities .* was taken back"):
        bridge.process_weights(fold_ln=True)
    assert is_as_before(model, before)


class _Packed(nn.Module):
    """A projection whose weights are packed, as quantisation leaves them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("packed", torch.ones(56, 32, dtype=torch.int8))

    def forward(self, x):
        return x @ self.packed.T.to(x.dtype)


def test_quantised_weights_are_refused_before_anything_changes():
    model = make_model(find_case("LlamaForCausalLM"))
    model.model.layers[1].mlp.up_proj = _Packed()
    before = look(model)
    with pytest.raises(ArchitectureError, match=r"blocks\.1\.ln2 is read by .*mlp\.up_proj"):
        TransformerBridge(model).process_weights(fold_ln=True)
    assert is_as_before(model, before)
