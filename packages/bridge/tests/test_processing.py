"""Weight processing: predictions stay, weights come back, what does not hold is refused."""

import functools
import itertools

import pytest
import torch
import transformers
from tiny_cases import CASES, find_case, is_as_before, look, make_inputs, make_model, make_strong

from pellucid.bridge import ArchitectureError, TransformerBridge
from pellucid.bridge._model._processing import FLAGS

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


@functools.cache
def _make_bridge(case):
    return TransformerBridge(make_strong(case))


def _predict(bridge):
    ids, more = make_inputs(bridge)
    with torch.no_grad():
        return bridge.original_model(input_ids=ids, **more).logits.log_softmax(-1)


def _ask(flags):
    return {name: short in flags for short, name in _SHORT.items()}


def _list_admitted(case):
    return [short for short in _SHORT if short not in _refused(case)]


def _check_flags(case, chosen):
    bridge = _make_bridge(case)
    before, expected = look(bridge.original_model), _predict(bridge)
    for flags in chosen:
        report = bridge.process_weights(**_ask(flags))
        assert report.applied == tuple(_SHORT[short] for short in flags)
        assert report.max_log_prob_gap < 1e-4
        assert float((_predict(bridge) - expected).abs().max()) < 1e-4, flags
        assert bridge.restore() is bridge.original_model
        assert is_as_before(bridge.original_model, before), flags


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
    before = look(bridge.original_model)
    for short, reason in _refused(case).items():
        message = rf"{_SHORT[short]}=True does not hold for \w+: .*{reason}"
        with pytest.raises(ArchitectureError, match=message):
            bridge.process_weights(**_ask((short,)))
        # Whatever else is asked for, nothing of it is done.
        with pytest.raises(ArchitectureError, match="=True does not hold for"):
            bridge.process_weights(**_ask(tuple(_SHORT)))
        assert is_as_before(bridge.original_model, before)


@PER_CASE
def test_what_is_left_to_the_bridge_is_done_where_it_holds(case):
    bridge = _make_bridge(case)
    before, expected = look(bridge.original_model), _predict(bridge)
    report = bridge.enable_compatibility_mode(refactor_factored_attn_matrices=None)
    assert set(report.left_out) == {_SHORT[short] for short in _refused(case)}
    assert report.applied == tuple(_SHORT[short] for short in _list_admitted(case))
    if "fold_ln" in report.applied:
        _check_norms(bridge)
    # Processing what is processed is harmless, and all of it is taken back at once.
    assert bridge.process_weights().max_log_prob_gap < 1e-4
    assert float((_predict(bridge) - expected).abs().max()) < 1e-4
    bridge.restore()
    assert is_as_before(bridge.original_model, before)


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


def test_processed_weights_are_what_their_names_say():
    bridge = _make_bridge(find_case("GPT2LMHeadModel"))
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
    bridge = _make_bridge(find_case("GPT2LMHeadModel"))
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
    bridge = _make_bridge(find_case("StableLmForCausalLM"))
    layer = bridge.original_model.model.layers[0]
    assert layer.mlp.up_proj.bias is None
    bridge.process_weights(**_ask(("fold",)))
    assert layer.mlp.up_proj.bias is not None
    assert layer.mlp.up_proj.bias.any()
    bridge.restore()
    assert layer.mlp.up_proj.bias is None


def test_shared_embeddings_are_parted_and_joined_again():
    bridge = _make_bridge(find_case("GPT2LMHeadModel"))
    model = bridge.original_model
    shared = model.transformer.wte.weight
    assert model.lm_head.weight is shared
    bridge.process_weights(**_ask(("unembed",)))
    assert model.transformer.wte.weight is shared
    assert model.lm_head.weight is not shared
    bridge.restore()
    assert model.lm_head.weight is shared


def test_views_taken_before_stay_as_they_are():
    bridge = _make_bridge(find_case("GPT2LMHeadModel"))
    views = bridge.blocks[0].attn.W_Q
    held = views.clone()
    bridge.process_weights()
    assert torch.equal(views, held)
    assert not torch.equal(bridge.blocks[0].attn.W_Q, held)
    bridge.restore()


def test_restoring_follows_a_model_that_was_converted():
    bridge = TransformerBridge(make_model(find_case("GPT2LMHeadModel")))
    expected = {name: held.double() for name, held in bridge.original_model.state_dict().items()}
    bridge.process_weights()
    bridge.to(torch.float64)
    bridge.restore()
    held = bridge.original_model.state_dict()
    assert all(torch.equal(held[name], value) for name, value in expected.items())


def test_leaving_the_context_restores():
    model = make_model(find_case("LlamaForCausalLM"))
    before = look(model)
    with TransformerBridge(model) as bridge:
        bridge.enable_compatibility_mode()
        assert not is_as_before(model, before)
    assert is_as_before(model, before)


def test_no_processing_changes_nothing():
    bridge = _make_bridge(find_case("GPT2LMHeadModel"))
    before = look(bridge.original_model)
    report = bridge.enable_compatibility_mode(no_processing=True, fold_ln=True)
    assert (report.applied, report.max_log_prob_gap) == ((), 0.0)
    assert bridge.compatibility_mode
    assert is_as_before(bridge.original_model, before)
    bridge.restore()


def test_the_report_is_printed_when_asked(capsys):
    bridge = _make_bridge(find_case("LlamaForCausalLM"))
    report = bridge.process_weights(verbose=True)
    bridge.restore()
    assert capsys.readouterr().out == f"{report}\n"
    assert "applied: fold_ln, center_unembed, fold_value_biases" in str(report)
    assert "left out: center_writing_weights, because blocks.0.ln1" in str(report)
    assert f"{report.max_log_prob_gap:.2e} nats" in str(report)


def test_half_precision_is_processed_and_says_how_much_it_rounds():
    model = make_model(find_case("GPT2LMHeadModel")).to(torch.bfloat16)
    before = look(model)
    bridge = TransformerBridge(model)
    assert 0 < bridge.process_weights().max_log_prob_gap < 0.5
    assert model.dtype == torch.bfloat16
    bridge.restore()
    assert is_as_before(model, before)


def test_training_mode_and_hooks_stay():
    model = make_model(find_case("GPT2LMHeadModel")).train()
    bridge = TransformerBridge(model)
    hooks = {id(m): (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()}
    bridge.process_weights()
    assert all(module.training for module in model.modules())
    assert hooks == {
        id(m): (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    }
    bridge(torch.tensor([[5, 6, 7]]), return_type="loss").backward()
    assert model.lm_head.bias.grad is not None


def test_probes_are_checked():
    bridge = _make_bridge(find_case("LlamaForCausalLM"))
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
    before = look(bridge.original_model)
    report = bridge.process_weights(refactor_factored_attn_matrices=None)
    is_centred = kind is not None and kind.startswith("LN")
    assert ("center_writing_weights" in report.applied) is is_centred
    assert ("fold_ln" in report.applied) is (kind is not None)
    assert {"center_unembed", "fold_value_biases", FLAGS[-1]} <= set(report.applied)
    bridge.restore()
    assert is_as_before(bridge.original_model, before)


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
    before, expected = look(model), _predict(bridge)
    report = bridge.process_weights()
    assert report.applied == FLAGS[:4]
    assert float((_predict(bridge) - expected).abs().max()) < 1e-4
    bridge.restore()
    assert is_as_before(model, before)
