"""Weight processing: predictions stay, weights come back, what does not hold is refused."""

import functools
import itertools

import pytest
import torch
import transformers
from tiny_cases import CASES, make_inputs, make_model
from torch import nn

from pellucid.bridge import ArchitectureError, TransformerBridge
from pellucid.bridge._processing import FLAGS

_SHORT = dict(zip(("fold", "writers", "unembed", "values", "refactor"), FLAGS, strict=True))
# The flags that each model is to refuse, and a word of the reason.
_RMS = {"writers": "RMSNorm, which lets the mean through"}
_SHARED = {"refactor": "query heads of .* share keys and values"}
_ROTATED = {"refactor": "rotated, normalised or capped"}
_STREAM = {"fold": "no norm stands before projections"}
_LATENT = {"refactor": "keys and values of a latent"}
_LLAMA = {**_RMS, **_SHARED}
_ALIKE = (
    (
        _LLAMA,
        (
            "LlamaForCausalLM MistralForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM "
            "GemmaForCausalLM LlavaForConditionalGeneration Gemma3ForCausalLM Olmo2ForCausalLM "
            "Phi3ForCausalLM "
            "GraniteForCausalLM MixtralForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM "
            "Qwen3NextForCausalLM"
        ),
    ),
    (
        _SHARED,
        (
            "OlmoForCausalLM CohereForCausalLM Starcoder2ForCausalLM StableLmForCausalLM "
            "PhiForCausalLM GPTBigCodeForCausalLM FalconForCausalLM"
        ),
    ),
    (_ROTATED, "GPTJForCausalLM CodeGenForCausalLM GPTNeoXForCausalLM"),
    (_STREAM, "BertForMaskedLM BertLMHeadModel RobertaForMaskedLM BartForConditionalGeneration"),
    (_STREAM, "MarianMTModel"),
    ({**_RMS, **_LATENT}, "DeepseekV3ForCausalLM"),
    ({**_RMS, "refactor": "no block has attention"}, "MambaForCausalLM Mamba2ForCausalLM"),
    (
        {"writers": "T5LayerNorm, which lets the mean through"},
        "T5ForConditionalGeneration MT5ForConditionalGeneration",
    ),
    ({**_LLAMA, "unembed": "capped at 30"}, "Gemma2ForCausalLM"),
    ({**_LLAMA, "values": "attention sinks"}, "GptOssForCausalLM"),
)
_BY_KIND = {kind: reasons for reasons, kinds in _ALIKE for kind in kinds.split()}
_BY_NAME = {"GPTBigCode many keys": {}, "Falcon RW": {}}


def _refused(case):
    return _BY_NAME.get(case.name, _BY_KIND.get(case.kind, {}))


PER_CASE = pytest.mark.parametrize("case", CASES, ids=str)


def _make_strong(case):
    """Return a model whose every weight shows in its predictions."""
    model = make_model(case)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(drawn * 0.25)
            else:
                parameter.add_(drawn * 0.2)
    return model.requires_grad_(False)


@functools.cache
def _make_bridge(case):
    return TransformerBridge(_make_strong(case))


def _predict(bridge):
    ids, more = make_inputs(bridge)
    with torch.no_grad():
        return bridge.original_model(input_ids=ids, **more).logits.log_softmax(-1)


def _look(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = {name: id(held) for name, held in model.named_parameters(remove_duplicate=False)}
    return state, parameters, model.config.to_dict()


def _is_as_before(model, before):
    state, *rest = _look(model)
    same = state.keys() == before[0].keys()
    same = same and all(torch.equal(state[name], before[0][name]) for name in state)
    return same and rest == list(before[1:])


def _ask(flags):
    return {name: short in flags for short, name in _SHORT.items()}


def _list_admitted(case):
    return [short for short in _SHORT if short not in _refused(case)]


def _check_flags(case, chosen):
    bridge = _make_bridge(case)
    before, expected = _look(bridge.original_model), _predict(bridge)
    for flags in chosen:
        report = bridge.process_weights(**_ask(flags))
        assert report.applied == tuple(_SHORT[short] for short in flags)
        assert report.max_log_prob_gap < 1e-4
        assert float((_predict(bridge) - expected).abs().max()) < 1e-4, flags
        assert bridge.restore() is bridge.original_model
        assert _is_as_before(bridge.original_model, before), flags


@PER_CASE
def test_flags_keep_predictions_and_come_back(case):
    admitted = _list_admitted(case)
    # Each alone and all of them; the test after this one has the rest.
    numbers = sorted({1, len(admitted)})
    _check_flags(case, [f for n in numbers for f in itertools.combinations(admitted, n)])


@pytest.mark.slow
@PER_CASE
def test_every_combination_of_flags_keeps_predictions_and_comes_back(case):
    admitted = _list_admitted(case)
    numbers = range(1, len(admitted) + 1)
    _check_flags(case, [f for n in numbers for f in itertools.combinations(admitted, n)])


@PER_CASE
def test_what_a_model_does_not_admit_is_refused_by_name(case):
    bridge = _make_bridge(case)
    before = _look(bridge.original_model)
    for short, reason in _refused(case).items():
        message = rf"{_SHORT[short]}=True does not hold for \w+: .*{reason}"
        with pytest.raises(ArchitectureError, match=message):
            bridge.process_weights(**_ask((short,)))
        # Whatever else is asked for, nothing of it is done.
        with pytest.raises(ArchitectureError, match="=True does not hold for"):
            bridge.process_weights(**_ask(tuple(_SHORT)))
        assert _is_as_before(bridge.original_model, before)


@PER_CASE
def test_what_is_left_to_the_bridge_is_done_where_it_holds(case):
    bridge = _make_bridge(case)
    before, expected = _look(bridge.original_model), _predict(bridge)
    report = bridge.enable_compatibility_mode(refactor_factored_attn_matrices=None)
    assert set(report.left_out) == {_SHORT[short] for short in _refused(case)}
    assert report.applied == tuple(_SHORT[short] for short in _list_admitted(case))
    if "fold_ln" in report.applied:
        _check_norms(bridge)
    # Processing what is processed is harmless, and all of it is taken back at once.
    assert bridge.process_weights().max_log_prob_gap < 1e-4
    assert float((_predict(bridge) - expected).abs().max()) < 1e-4
    bridge.restore()
    assert _is_as_before(bridge.original_model, before)


def _check_norms(bridge):
    """Check that norms before projections give what they normalise, without a weight."""
    ids, more = make_inputs(bridge)
    _, cache = bridge.run_with_cache(ids, **more)
    norms = [name.removesuffix(".hook_normalized") for name in cache if "normalized" in name]
    norms = [name for name in norms if name.endswith((".ln1", ".ln2", ".ln_cross", "ln_final"))]
    for name in norms:
        normalized, given = cache[f"{name}.hook_normalized"], cache[f"{name}.hook_out"]
        torch.testing.assert_close(given, normalized, atol=1e-5, rtol=1e-5)
    assert norms


def _case(kind):
    return next(case for case in CASES if case.name == kind)


def test_processed_weights_are_what_their_names_say():
    bridge = _make_bridge(_case("GPT2LMHeadModel"))
    bridge.enable_compatibility_mode()
    assert bridge.compatibility_mode
    assert bridge.cfg.normalization_type == "LNPre"
    for weight in (bridge.W_E, bridge.W_pos, bridge.W_O, bridge.W_out, bridge.b_O, bridge.b_out):
        assert float(weight.mean(-1).abs().max()) < 1e-6
    assert float(bridge.W_U.mean(-1).abs().max()) < 1e-6
    assert float(bridge.b_U.mean().abs()) < 1e-6
    for weight in (bridge.W_Q, bridge.W_K, bridge.W_V, bridge.W_in):
        assert float(weight.mean(-2).abs().max()) < 1e-6
    assert float(bridge.W_U.mean(0).abs().max()) < 1e-6
    assert not bridge.b_V.any()
    bridge.restore()
    assert not bridge.compatibility_mode
    assert bridge.cfg.normalization_type == "LN"
    assert bridge.b_V.any()
    assert "unembed.b_U" not in bridge.weight_table()


def test_refactored_heads_have_singular_vectors_for_bases():
    bridge = _make_bridge(_case("GPT2LMHeadModel"))
    products = bridge.OV.AB.clone()
    scores = bridge.QK.AB.clone()
    bridge.process_weights(**_ask(("refactor",)))
    torch.testing.assert_close(bridge.OV.AB, products, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bridge.QK.AB, scores, atol=1e-5, rtol=1e-4)
    rows = bridge.W_O @ bridge.W_O.mT
    torch.testing.assert_close(rows, torch.eye(rows.shape[-1]).expand_as(rows), atol=1e-5, rtol=0)
    with_bias = torch.cat([bridge.W_Q, bridge.b_Q.unsqueeze(2)], dim=2)
    square = with_bias.mT @ with_bias
    off = square - torch.diag_embed(square.diagonal(dim1=-2, dim2=-1))
    assert float(off.abs().max()) < 1e-4
    bridge.restore()


def test_norm_biases_reach_projections_that_had_none():
    bridge = _make_bridge(_case("StableLmForCausalLM"))
    layer = bridge.original_model.model.layers[0]
    assert layer.mlp.up_proj.bias is None
    bridge.process_weights(**_ask(("fold",)))
    assert layer.mlp.up_proj.bias is not None
    assert layer.mlp.up_proj.bias.any()
    bridge.restore()
    assert layer.mlp.up_proj.bias is None


def test_shared_embeddings_are_parted_and_joined_again():
    bridge = _make_bridge(_case("GPT2LMHeadModel"))
    model = bridge.original_model
    shared = model.transformer.wte.weight
    assert model.lm_head.weight is shared
    bridge.process_weights(**_ask(("unembed",)))
    assert model.transformer.wte.weight is shared
    assert model.lm_head.weight is not shared
    bridge.restore()
    assert model.lm_head.weight is shared


def test_views_taken_before_stay_as_they_are():
    bridge = _make_bridge(_case("GPT2LMHeadModel"))
    views = bridge.blocks[0].attn.W_Q
    held = views.clone()
    bridge.process_weights()
    assert torch.equal(views, held)
    assert not torch.equal(bridge.blocks[0].attn.W_Q, held)
    bridge.restore()


def test_restoring_follows_a_model_that_was_converted():
    bridge = TransformerBridge(make_model(_case("GPT2LMHeadModel")))
    expected = {name: held.double() for name, held in bridge.original_model.state_dict().items()}
    bridge.process_weights()
    bridge.to(torch.float64)
    bridge.restore()
    held = bridge.original_model.state_dict()
    assert all(torch.equal(held[name], value) for name, value in expected.items())


def test_leaving_the_context_restores():
    model = make_model(_case("LlamaForCausalLM"))
    before = _look(model)
    with TransformerBridge(model) as bridge:
        bridge.enable_compatibility_mode()
        assert not _is_as_before(model, before)
    assert _is_as_before(model, before)


def test_no_processing_changes_nothing():
    bridge = _make_bridge(_case("GPT2LMHeadModel"))
    before = _look(bridge.original_model)
    report = bridge.enable_compatibility_mode(no_processing=True, fold_ln=True)
    assert (report.applied, report.max_log_prob_gap) == ((), 0.0)
    assert bridge.compatibility_mode
    assert _is_as_before(bridge.original_model, before)
    bridge.restore()


def test_the_report_is_printed_when_asked(capsys):
    bridge = _make_bridge(_case("LlamaForCausalLM"))
    report = bridge.process_weights(verbose=True)
    bridge.restore()
    assert capsys.readouterr().out == f"{report}\n"
    assert "applied: fold_ln, center_unembed, fold_value_biases" in str(report)
    assert "left out: center_writing_weights, because blocks.0.ln1" in str(report)
    assert f"{report.max_log_prob_gap:.2e} nats" in str(report)


def test_half_precision_is_processed_and_says_how_much_it_rounds():
    model = make_model(_case("GPT2LMHeadModel")).to(torch.bfloat16)
    before = _look(model)
    bridge = TransformerBridge(model)
    assert 0 < bridge.process_weights().max_log_prob_gap < 0.5
    assert model.dtype == torch.bfloat16
    bridge.restore()
    assert _is_as_before(model, before)


def test_training_mode_and_hooks_stay():
    model = make_model(_case("GPT2LMHeadModel")).train()
    bridge = TransformerBridge(model)
    hooks = {id(m): (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()}
    bridge.process_weights()
    assert all(module.training for module in model.modules())
    assert hooks == {
        id(m): (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    }
    bridge(torch.tensor([[5, 6, 7]]), return_type="loss").backward()
    assert model.lm_head.bias.grad is not None


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
    model = make_model(_case("LlamaForCausalLM"))
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
    model = make_model(_case("LlamaForCausalLM"))
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
    model = _make_strong(_case("LlamaForCausalLM"))
    bridge = TransformerBridge(model)
    layer = model.model.layers[1]
    layer.self_attn = _SkipFromNorm(layer.self_attn)
    before = _look(model)
    with pytest.raises(ArchitectureError, match=r"not only projections read what blocks\.1\.ln1"):
        bridge.process_weights(fold_ln=True)
    assert _is_as_before(model, before)


class _ReadsMean(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + x.mean(-1, keepdim=True) * torch.linspace(-1, 1, x.shape[-1])


def test_readers_of_the_mean_are_found_by_trial():
    model = _make_strong(_case("GPT2LMHeadModel"))
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
    model = _make_strong(_case("LlamaForCausalLM"))
    layer = model.model.layers[0]
    layer.mlp.down_proj.__class__ = _Sneaky
    layer.mlp.down_proj.norm = (layer.input_layernorm,)
    layer.input_layernorm.weight[0] = 3.0
    before = _look(model)
    bridge = TransformerBridge(model)
    with pytest.raises(ArchitectureError, match=r"changed log-probabilities .* was taken back"):
        bridge.process_weights(fold_ln=True)
    assert _is_as_before(model, before)


class _Packed(nn.Module):
    """A projection whose weights are packed, as quantisation leaves them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("packed", torch.ones(56, 32, dtype=torch.int8))

    def forward(self, x):
        return x @ self.packed.T.to(x.dtype)


def test_quantised_weights_are_refused_before_anything_changes():
    model = make_model(_case("LlamaForCausalLM"))
    model.model.layers[1].mlp.up_proj = _Packed()
    before = _look(model)
    with pytest.raises(ArchitectureError, match=r"blocks\.1\.ln2 is read by .*mlp\.up_proj"):
        TransformerBridge(model).process_weights(fold_ln=True)
    assert _is_as_before(model, before)


def test_probes_are_checked():
    bridge = _make_bridge(_case("LlamaForCausalLM"))
    with pytest.raises(ValueError, match="probe must be token ids"):
        bridge.process_weights(probe=torch.randn(2, 3))
    report = bridge.process_weights(probe=torch.tensor([[5, 6, 7]]))
    assert report.max_log_prob_gap < 1e-4
    bridge.restore()


@pytest.mark.parametrize("kind", ["LN", "LNPre", "RMS", "RMSPre", None])
def test_native_models(kind):
    config = {
        "d_model": 16, "n_layers": 2, "n_heads": 2, "d_vocab": 23, "n_ctx": 16, "seed": 0,
        "normalization_type": kind, "act_fn": "gelu",
    }  # fmt: skip
    bridge = TransformerBridge.boot_native(config)
    with torch.no_grad():
        for parameter in bridge.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    before = _look(bridge.original_model)
    report = bridge.process_weights(refactor_factored_attn_matrices=None)
    is_centred = kind is not None and kind.startswith("LN")
    assert ("center_writing_weights" in report.applied) is is_centred
    assert ("fold_ln" in report.applied) is (kind is not None)
    assert {"center_unembed", "fold_value_biases", FLAGS[-1]} <= set(report.applied)
    bridge.restore()
    assert _is_as_before(bridge.original_model, before)


def test_models_without_a_record_are_processed_too():
    config = transformers.NemotronConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=56, vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.NemotronForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    bridge = TransformerBridge(model)
    assert bridge.adapter.is_inferred
    before, expected = _look(model), _predict(bridge)
    report = bridge.process_weights()
    assert report.applied == FLAGS[:4]
    assert float((_predict(bridge) - expected).abs().max()) < 1e-4
    bridge.restore()
    assert _is_as_before(model, before)
