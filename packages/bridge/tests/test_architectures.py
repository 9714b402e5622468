"""Every record on tiny random models, against transformers and against computing it again."""

import copy

import pytest
import torch
from tiny_cases import CASES, make_bridge, make_inputs, make_model

from pellucid.bridge import TransformerBridge, infer_architecture
from pellucid.bridge._architectures._claims import find_false_claims
from pellucid.bridge._architectures._records import RECORDS
from pellucid.bridge._engine._taps import Tap
from pellucid.bridge._names._describe import describe_model, list_blocks
from pellucid.core.axes import AXES

_STATES = {"MambaForCausalLM", "Mamba2ForCausalLM"}
_TWO_STACKS = {"T5ForConditionalGeneration", "MT5ForConditionalGeneration"} | {
    "BartForConditionalGeneration", "MarianMTModel",
}  # fmt: skip
_BOTH_WAYS = {"BertForMaskedLM", "RobertaForMaskedLM"}
ATTENTIVE = [case for case in CASES if case.kind not in _STATES]
GENERATIVE = [case for case in CASES if case.kind not in _BOTH_WAYS | _TWO_STACKS]
# What heads gather is multiplied by a gate before it is projected.
GATED = {"Qwen3NextForCausalLM"}
PER_CASE = pytest.mark.parametrize("case", CASES, ids=str)


def _run(bridge, hooks=(), **more):
    ids, more = make_inputs(bridge, **more)
    with torch.no_grad():
        return bridge.run_with_hooks(ids, fwd_hooks=list(hooks), **more)


def _cache(bridge, names=None, **more):
    ids, more = make_inputs(bridge, **more)
    with torch.no_grad():
        return bridge.run_with_cache(ids, names_filter=names, **more)[1]


def _run_model(bridge, **more):
    ids, more = make_inputs(bridge, **more)
    with torch.no_grad():
        return bridge.original_model(input_ids=ids, **more)


def _masks():
    left, right = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)
    left[0, :2], right[1, 4:] = 0, 0
    return {"none": None, "left": left, "right": right}


_SIZES = {
    "1": {1}, "batch": {2}, "batch_or_one": {1, 2}, "pos": {6}, "query_pos": {6}, "key_pos": {6},
    "d_model": {32}, "d_vocab": {97}, "expert": {4}, "k": {2},
}  # fmt: skip


@PER_CASE
def test_what_is_noted_is_what_hooks_see_and_has_the_shape_that_the_table_says(case):
    bridge = make_bridge(case)
    table, names, seen = bridge.hook_table(), bridge.select_names(), {}
    _run(bridge, [(n, lambda v, hook: seen.update({hook.name: v.clone()})) for n in names])
    noted = _cache(bridge)
    assert set(noted) == set(seen) == set(names)
    for name, value in noted.items():
        scale = max(1, float(value[value.abs() < 1e30].abs().max()))
        assert value.shape == seen[name].shape
        assert _gap(value.clamp(min=-1e3), seen[name].clamp(min=-1e3)) < 1e-5 * scale, name
        _check_shape(table[name], value.shape, bridge.cfg)


def _check_shape(spec, shape, cfg):
    axes = spec.shape.split()
    assert {*axes} <= {"1", *AXES}, spec
    assert len(axes) == len(shape), (spec, shape)
    sizes = zip(axes, shape, strict=True)
    assert all(size in _SIZES.get(axis, {size}) for axis, size in sizes), (spec, shape)
    if "head" in axes and "mixer" not in spec.name:
        assert shape[axes.index("head")] in {cfg.n_heads, cfg.n_key_value_heads, 1}, (spec, shape)


def _blocks(bridge):
    for stack in bridge.adapter.stacks:
        for number in range(len(list_blocks(bridge.original_model, stack))):
            yield f"{stack.name}.{number}", stack.block


def _gap(a, b):
    return float((a - b).abs().max())


def _describe(bridge, record):
    config = bridge.original_model.config.get_text_config()
    specs = describe_model(bridge.original_model, record, config)
    return {s.name: (set(s.aliases), s.shape, _unfold(s.tap)) for s in specs}


def _unfold(tap):
    held = vars(tap)
    return type(tap), {n: _unfold(v) if isinstance(v, Tap) else v for n, v in held.items()}


def test_every_record_has_a_model():
    tried = {case.kind for case in CASES}
    assert all(tried & set(record.classes) for record in RECORDS)


@PER_CASE
def test_record_says_what_the_models_structure_says(case):
    bridge = make_bridge(case)
    assert not bridge.adapter.is_inferred
    inferred = infer_architecture(bridge.original_model)
    ours, found = _describe(bridge, bridge.adapter), _describe(bridge, inferred)
    assert ours.keys() == found.keys()
    assert [name for name in ours if ours[name] != found[name]] == []
    # A record speaks of all models of its class, some of which write in place.
    assert bridge.adapter.writes_in_place >= inferred.writes_in_place


@PER_CASE
def test_record_claims_nothing_false(case):
    bridge = make_bridge(case)
    config = bridge.original_model.config.get_text_config()
    assert find_false_claims(bridge.original_model, bridge.adapter, config) == ()


@PER_CASE
@pytest.mark.parametrize("mask", _masks().values(), ids=_masks())
def test_logits_are_the_models_own_bit_for_bit(case, mask):
    bridge = make_bridge(case)
    more = {} if mask is None else {"attention_mask": mask}
    assert torch.equal(_run(bridge, **more), _run_model(bridge, **more).logits)


@PER_CASE
@pytest.mark.parametrize("mask", _masks().values(), ids=_masks())
def test_activations_put_back_leave_logits_alone(case, mask):
    bridge = make_bridge(case)
    more = {} if mask is None else {"attention_mask": mask}
    seen = set()

    def put_back(value, hook):
        seen.add(hook.name)
        return value.clone()

    logits = _run(bridge, [(name, put_back) for name in bridge.hook_table()], **more)
    expected = _run(bridge, **more)
    rows = slice(None) if mask is None else mask.bool()
    assert seen == set(bridge.hook_table())
    assert _gap(logits[rows], expected[rows]) < 1e-5 * max(1, float(expected.abs().max()))


@PER_CASE
def test_zeros_change_logits(case):
    bridge = make_bridge(case)
    if case.kind in _TWO_STACKS:
        # What queries and keys do to logits is little more than rounding in single precision.
        bridge = TransformerBridge(make_model(case).double().requires_grad_(False))
    expected = _run(bridge)
    # Hundreds of times what rounding leaves of an edit that does nothing.
    least = 300 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    least = least if case.kind in _TWO_STACKS else 0
    table = bridge.hook_table()
    names = ["hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out", "attn.hook_q"]
    names += ["attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_pattern", "mlp.hook_post"]
    names += ["hook_resid_post", "hook_resid_mid2", "cross_attn.hook_pattern", "mixer.hook_out"]
    for block, _ in _blocks(bridge):
        for name in names:
            if f"{block}.{name}" in table:
                zeros = [(f"{block}.{name}", lambda value, hook: torch.zeros_like(value))]
                assert _gap(_run(bridge, zeros), expected) > least, f"{block}.{name}"


MIXTURES = [case for case in CASES if "Moe" in case.kind or "Mixtral" in case.kind] + [
    case for case in CASES if case.kind.startswith(("GptOss", "Deepseek", "Qwen3Next"))
]


def _drop_first(value, hook):
    return torch.cat([value[:, :, :1] * 0, value[:, :, 1:]], dim=2)


@pytest.mark.parametrize("case", MIXTURES, ids=str)
def test_experts_by_themselves_are_what_the_mixture_sums(case):
    bridge = make_bridge(case)
    names = [name for name in bridge.hook_table() if "experts.hook" in name]
    cache, plain = _cache(bridge, names), _run(bridge)
    results = [name for name in names if name.endswith("hook_result")]
    assert results
    for name in results:
        owner = name.removesuffix("hook_result")
        assert _gap(cache[name].sum(2), cache[f"{owner}hook_out"]) < 1e-6
        for place in (name, f"{owner}hook_post"):
            _check_shape(bridge.hook_table()[place], cache[place].shape, bridge.cfg)
            same = _run(bridge, [(place, lambda v, hook: v.clone())])
            assert _gap(same, plain) < 1e-5

        # GPT-OSS' experts have biases, which stay where neurons are zero.
        edits = [(f"{owner}hook_post" if "GptOss" not in case.kind else name, _drop_first)]
        with bridge.hooks(edits):
            left = _cache(bridge, f"{owner}hook_out")[f"{owner}hook_out"]
        assert _gap(left, cache[name][:, :, 1:].sum(2)) < 1e-6


@PER_CASE
def test_streams_are_the_models_hidden_states(case):
    bridge = make_bridge(case)
    output = _run_model(bridge, output_hidden_states=True)
    cache = _cache(bridge, lambda name: name.endswith("resid_pre"))
    for stack in bridge.adapter.stacks:
        kind = {"blocks": "", "encoder_blocks": "encoder_", "decoder_blocks": "decoder_"}
        states = getattr(output, f"{kind[stack.name]}hidden_states")
        # The last one has been through the final norm.
        for number, state in enumerate(states[:-1]):
            # State spaces keep what follows a block, all others what precedes it.
            block = number + 1 if case.kind in _STATES else number
            if f"{stack.name}.{block}.hook_resid_pre" in cache:
                assert _gap(cache[f"{stack.name}.{block}.hook_resid_pre"], state) < 1e-5


@PER_CASE
def test_sums_close(case):
    bridge = make_bridge(case)
    cache = _cache(bridge)
    n_sums = 0
    for block, record in _blocks(bridge):
        for total, terms in _sums(bridge, block, record):
            held = sum(cache[f"{block}.{term}"] for term in terms)
            made = cache[f"{block}.{total}"]
            assert made.shape == held.shape == (2, 6, 32)
            assert _gap(made, held) < 1e-4, (block, total, terms)
            n_sums += 1
    assert n_sums or case.kind in _STATES


def _sums(bridge, block, record):
    """Yield what stands for which sum in a block, as this kind of block puts it together."""
    table = bridge.hook_table()
    has_attention = f"{block}.hook_attn_out" in table
    has_cross = f"{block}.hook_cross_attn_out" in table
    if record.is_post_norm:
        yield "ln1_post.hook_in", ("hook_resid_pre", "hook_attn_out")
        if has_cross:
            yield "ln_cross.hook_in", ("hook_resid_mid", "hook_cross_attn_out")
        yield "ln2_post.hook_in", (f"hook_resid_mid{2 if has_cross else ''}", "hook_mlp_out")
    elif f"{block}.hook_resid_mid" in table:
        first = "hook_attn_out" if has_attention else "mixer.hook_out"
        yield "hook_resid_mid", ("hook_resid_pre", first)
        if has_cross:
            yield "hook_resid_mid2", ("hook_resid_mid", "hook_cross_attn_out")
        yield "hook_resid_post", (f"hook_resid_mid{2 if has_cross else ''}", "hook_mlp_out")
    elif has_attention:
        yield "hook_resid_post", ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")


def _eager_twin(bridge):
    model = bridge.original_model
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    twin = type(model)(config).eval()
    twin.load_state_dict(model.state_dict())
    return twin


# Transformers' eager Falcon adds its linear bias twice: to the mask and to the scores.
@pytest.mark.parametrize("case", [c for c in ATTENTIVE if c.name != "Falcon RW"], ids=str)
@pytest.mark.parametrize("mask", _masks().values(), ids=_masks())
def test_patterns_are_those_of_eager_attention(case, mask):
    bridge = make_bridge(case)
    more = {} if mask is None else {"attention_mask": mask}
    ids, inputs = make_inputs(bridge, **more)
    with torch.no_grad():
        output = _eager_twin(bridge)(input_ids=ids, output_attentions=True, **inputs)
    cache = _cache(bridge, lambda name: name.endswith("hook_pattern"), **more)
    is_two = bridge.original_model.config.is_encoder_decoder
    expected = {"decoder_blocks": getattr(output, "decoder_attentions", None)} if is_two else {}
    expected |= {"encoder_blocks": getattr(output, "encoder_attentions", None)} if is_two else {}
    expected |= {} if is_two else {"blocks": output.attentions}
    rows = torch.ones(2, 6, dtype=torch.bool) if mask is None else mask.bool()
    for stack in bridge.adapter.stacks:
        names = [n for n in cache if n.startswith(stack.name) and n.endswith("attn.hook_pattern")]
        names = [n for n in names if "cross" not in n]
        given = [held for held in expected[stack.name] if held is not None]
        assert names
        for name, pattern in zip(names, given, strict=True):
            # A sink has a column of its own, which is no key's.
            pattern = pattern[..., :6].transpose(1, 2)[rows]
            assert _gap(cache[name].transpose(1, 2)[rows], pattern) < 1e-5, name


@pytest.mark.parametrize("case", [c for c in ATTENTIVE if c.kind not in GATED], ids=str)
def test_heads_gather_values_as_the_pattern_says(case):
    bridge = make_bridge(case)
    cache = _cache(bridge)
    for block, record in _blocks(bridge):
        for part in ("attn", "cross_attn") if record.cross_attn else ("attn",):
            value, pattern = cache[f"{block}.{part}.hook_v"], cache[f"{block}.{part}.hook_pattern"]
            shared = value.repeat_interleave(pattern.shape[1] // value.shape[2], dim=2)
            z = torch.einsum("bhqk,bkhd->bqhd", pattern, shared)
            assert _gap(cache[f"{block}.{part}.hook_z"], z) < 1e-5


@pytest.mark.parametrize("case", ATTENTIVE, ids=str)
def test_patterns_are_softmax_of_scores(case):
    bridge = make_bridge(case)
    cache = _cache(bridge)
    for name in [name for name in cache if name.endswith("hook_pattern")]:
        scores = cache[name.replace("hook_pattern", "hook_attn_scores")]
        made, pattern = scores.float().softmax(-1), cache[name]
        if case.kind == "GptOssForCausalLM":  # Its sink takes part of every row.
            pattern = pattern / pattern.sum(-1, keepdim=True)
        assert _gap(made, pattern) < 1e-5


@pytest.mark.parametrize("case", ATTENTIVE, ids=str)
def test_padding_gets_no_attention(case):
    bridge = make_bridge(case)
    left = _masks()["left"]
    cache = _cache(bridge, lambda name: name.endswith("hook_pattern"), attention_mask=left)
    padded = [held[0, :, 2:, :2] for name, held in cache.items() if "decoder" not in name]
    assert padded
    assert max(float(held.abs().max()) for held in padded) < 1e-6


@pytest.mark.parametrize("case", GENERATIVE, ids=str)
def test_generation_with_hooks_is_computing_it_all_again(case):
    bridge = make_bridge(case)
    ids, _ = make_inputs(bridge)
    names = [
        name
        for name in ("blocks.1.hook_resid_mid", "blocks.1.attn.hook_z", "blocks.0.hook_resid_post")
        if name in bridge.hook_table()
    ]

    def twist(value, hook):
        return value * 0.5 + 0.3 * value.roll(1, dims=-1)

    def generate(*, use_cache):
        return bridge.generate(
            ids, max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False,
            use_past_kv_cache=use_cache,
        )  # fmt: skip

    plain = generate(use_cache=True)
    with bridge.hooks(fwd_hooks=[(name, twist) for name in names]):
        quick, slow = generate(use_cache=True), generate(use_cache=False)
    assert torch.equal(quick, slow)
    assert plain.shape == quick.shape == (2, 10)


class _StopError(Exception):
    pass


def _stop(value, hook):
    raise _StopError


@PER_CASE
def test_nothing_is_left_behind(case):
    bridge = make_bridge(case)
    model = bridge.original_model

    def look():
        own = [
            (name, type(module), sorted(vars(module)), id(getattr(module, "config", None)),
             dict(module._forward_hooks), dict(module._forward_pre_hooks), module.training)
            for name, module in model.named_modules()
        ]  # fmt: skip
        return own, model.config.to_dict(), list(model.state_dict())

    before = look()
    logits = _run(bridge)
    _cache(bridge)
    assert look() == before
    table = bridge.hook_table()
    inside = [n for n in table if n.endswith(("hook_pattern", "hook_resid_post", "hook_out"))]
    last = inside[-1]
    with pytest.raises(_StopError):
        _run(bridge, [*((n, lambda value, hook: value.clone()) for n in table), (last, _stop)])
    for name in [n for n in inside if n.endswith("hook_pattern")][:1]:
        with pytest.raises(_StopError):
            _run(bridge, [(name, _stop)])
    assert look() == before
    assert torch.equal(_run(bridge), logits)
