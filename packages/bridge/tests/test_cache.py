"""What a cache takes apart sums to what it takes apart, on every architecture or by refusal."""

import pytest
import torch
from tiny_cases import CASES, Case, make_bridge, make_inputs

from pellucid.bridge import ActivationCache, ArchitectureError
from pellucid.bridge._caches._readout import read_out
from pellucid.bridge._weights._writers import list_writers

_REFUSED = {
    "BertForMaskedLM", "BertLMHeadModel", "RobertaForMaskedLM", "T5ForConditionalGeneration",
    "MT5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel",
}  # fmt: skip
EXPERT_BIASES = {"GptOssForCausalLM"}
# All sizes the same, so that an axis taken for another one has no other length to be told by.
_SAME = {"vocab_size": 32, "num_attention_heads": 4}
SQUARE = [
    Case(f"{kind} square", kind, tuple({**_SAME, **more}.items()))
    for kind, more in (
        ("LlamaForCausalLM", {"intermediate_size": 32, "num_key_value_heads": 4}),
        ("GPT2LMHeadModel", {"n_inner": 32}),
        ("GPTNeoXForCausalLM", {"intermediate_size": 32}),
    )
]
SUMS = [case for case in CASES if case.kind not in _REFUSED] + SQUARE
PER_CASE = pytest.mark.parametrize("case", SUMS, ids=str)


def run(bridge, **more):
    ids, more = make_inputs(bridge, **more)
    with torch.no_grad():
        return bridge.run_with_cache(ids, **more)


def gap(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


@PER_CASE
def test_components_sum_to_the_stream(case):
    bridge = make_bridge(case)
    _, cache = run(bridge)
    n = cache.n_layers
    for layer in (0, 1, None):
        whole = cache["resid_post", n - 1] if layer is None else cache["resid_pre", layer]
        stack, labels = cache.decompose_resid(layer, return_labels=True)
        assert len(stack) == len(labels) == len(set(labels))
        assert gap(stack.sum(0), whole) < 1e-4
        full, labels = cache.get_full_resid_decomposition(layer, return_labels=True)
        assert len(full) == len(labels) == len(set(labels))
        assert gap(full.sum(0), whole) < 1e-4
        by_mlp = cache.get_full_resid_decomposition(layer, expand_neurons=False)
        assert gap(by_mlp.sum(0), whole) < 1e-4


@PER_CASE
def test_components_sum_to_the_stream_before_the_mlp(case):
    bridge = make_bridge(case)
    _, cache = run(bridge)
    if ("resid_mid", 1) not in cache:
        with pytest.raises(ValueError, match="between attention and MLP"):
            cache.decompose_resid(1, mlp_input=True)
        return
    whole = cache["resid_mid", 1].view_as(cache["resid_pre", 1])
    assert gap(cache.decompose_resid(1, mlp_input=True).sum(0), whole) < 1e-4
    assert gap(cache.get_full_resid_decomposition(1, mlp_input=True).sum(0), whole) < 1e-4
    assert gap(cache.accumulated_resid(1, mlp_input=True)[-1], whole) == 0


@PER_CASE
@pytest.mark.parametrize("layer", [1, None])
def test_the_norm_of_parts_is_the_normalised_stream(case, layer):
    bridge = make_bridge(case)
    _, cache = run(bridge)
    owner = "ln_final" if layer is None else f"blocks.{layer}.ln1"
    parts = cache.get_full_resid_decomposition(layer, apply_ln=True)
    if f"{owner}.hook_scale" not in bridge.hook_table():
        assert gap(parts.sum(0), cache["resid_pre", 1]) < 1e-4
        return
    expected = cache[f"{owner}.hook_normalized"]
    assert gap(parts.sum(0), expected) < 1e-4
    assert gap(cache.decompose_resid(layer, apply_ln=True).sum(0), expected) < 1e-4
    heads = cache.stack_head_results(-1 if layer is None else 1, incl_remainder=True, apply_ln=True)
    assert gap(heads.sum(0), expected) < 1e-4
    assert gap(cache.accumulated_resid(layer, apply_ln=True)[-1], expected) < 1e-4
    directions = torch.randn(bridge.cfg.d_model, 3)
    projected = cache.get_full_resid_decomposition(
        layer, apply_ln=True, project_output_onto=directions
    )
    assert gap(projected, parts @ directions) < 1e-4
    neurons = cache.stack_neuron_results(
        -1 if layer is None else 1,
        apply_ln=True, project_output_onto=directions[:, 0], incl_remainder=True,
    )  # fmt: skip
    assert gap(neurons.sum(0), expected @ directions[:, 0]) < 1e-4


@PER_CASE
def test_attributions_sum_to_the_difference_of_logits(case):
    bridge = make_bridge(case)
    _, cache = run(bridge)
    right = torch.tensor([[3, 9, 8, 1, 0, 20], [2, 2, 30, 5, 6, 7]])
    wrong = right.flip(-1)
    parts = cache.get_full_resid_decomposition()
    attributed = cache.logit_attrs(parts, right, wrong).sum(0)
    logits = cache["unembed.hook_out"]
    taken = logits.gather(-1, right[..., None]) - logits.gather(-1, wrong[..., None])
    # What biases add whatever the stream is: the logits of a stream that the norm makes nothing of.
    table = bridge.hook_table()
    bias = torch.zeros(bridge.cfg.d_model)
    if "ln_final.hook_out" in table:
        layer = table["ln_final.hook_out"].tap.module
        bias = bias if getattr(layer, "bias", None) is None else layer.bias
    constant = table["unembed.hook_out"].tap.module(bias)
    expected = taken.squeeze(-1) - (constant[right] - constant[wrong])
    assert gap(attributed, expected) < 1e-4


@PER_CASE
def test_the_last_stream_reads_out_as_the_models_logits(case):
    bridge = make_bridge(case)
    logits, cache = run(bridge)
    assert gap(read_out(bridge, cache["resid_post", -1]), logits) < 1e-4
    lens, labels = cache.logit_lens(return_labels=True)
    assert labels == [*(f"{n}_pre" for n in range(cache.n_layers)), "final_post"]
    assert gap(lens[-1], logits) < 1e-4


@PER_CASE
def test_what_is_derived_is_what_the_run_had(case):
    bridge = make_bridge(case)
    ids, more = make_inputs(bridge)
    names = bridge.select_names(list(bridge.hook_table()))
    if bridge.adapter.writes_in_place:
        names = [name for name in names if "mlp_in" not in name]
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids, names_filter=names, **more)
    n_derived = 0
    for name in names:
        held = cache.cache_dict.pop(name)
        if name in cache:
            assert gap(cache[name].reshape(held.shape), held) < 1e-4, name
            n_derived += 1
        cache.cache_dict[name] = held
    assert n_derived


@pytest.mark.parametrize("kind", sorted(_REFUSED))
def test_streams_that_are_no_sums_are_refused(kind):
    bridge = make_bridge(next(case for case in CASES if case.kind == kind))
    _, cache = run(bridge)
    with pytest.raises(ArchitectureError, match=r"one stack|norms stand"):
        cache.decompose_resid()
    with pytest.raises(ArchitectureError):
        read_out(bridge, torch.zeros(1, bridge.cfg.d_model))


@PER_CASE
def test_biases_accumulate(case):
    bridge = make_bridge(case)
    _, cache = run(bridge)
    if any(w.norm is not None for w in list_writers(bridge)[0]) or case.kind in EXPERT_BIASES:
        with pytest.raises(ArchitectureError, match="depends on"):
            bridge.accumulated_bias(1)
        return
    bias = bridge.accumulated_bias(1)
    full, labels = cache.get_full_resid_decomposition(1, return_labels=True)
    if not any(label.endswith("out") for label in labels):
        assert gap(full[labels.index("bias")][0, 0], bias) < 1e-5


@pytest.mark.parametrize("kind", ["MambaForCausalLM", "Mamba2ForCausalLM"])
def test_state_spaces_read_as_attention(kind):
    bridge = make_bridge(next(case for case in CASES if case.kind == kind))
    _, cache = run(bridge)
    assert cache.ssm_layers() == [0, 1]
    assert cache.ssm_layers("mamba") == ([0, 1] if kind == "MambaForCausalLM" else [])
    pattern = cache.compute_ssm_effective_attention(1)
    assert pattern.triu(1).abs().max() == 0
    space = cache._read_space(1)
    mixer = bridge.blocks[1].mixer.original_component
    read = torch.einsum("bcts,bscf->btcf", pattern, space.value)
    made = (read + mixer.D[:, None] * space.value).flatten(-2)
    gate = cache["blocks.1.mixer.in_proj.hook_out"]
    if kind == "MambaForCausalLM":
        gate = torch.nn.functional.silu(gate[..., gate.shape[-1] // 2 :])
        assert gap(made * gate, cache["blocks.1.mixer.out_proj.hook_in"]) < 1e-4
    else:
        assert gap(made, cache["blocks.1.mixer.norm.hook_in"]) < 1e-4
    by_state = cache.compute_ssm_effective_attention(1, per_state_coord=True)
    assert gap(by_state.sum(2), pattern) < 1e-5
    bare = cache.compute_ssm_effective_attention(1, include_dt_scaling=False)
    assert gap(bare * space.dt.movedim(-2, -1)[..., None, :], pattern) < 1e-5
    state = cache.compute_ssm_state(1)
    query = space.query[:, -1].expand(*state.shape[:2], -1)
    assert gap(torch.einsum("bcfn,bcn->bcf", state, query), read[:, -1]) < 1e-4
    one = ActivationCache(dict(cache.cache_dict), bridge).apply_slice_to_batch_dim(0)
    assert gap(one.compute_ssm_effective_attention(1), pattern[0]) < 1e-5
