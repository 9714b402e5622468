import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize, silu

from pellucid.core import ArgumentError
from pellucid.tptt import LCache, LinearAttention, delta_rule_recurrent

OPTIONS = st.fixed_dictionaries(
    {
        "operator_mode": st.sampled_from(
            ["delta_rule", "delta_rule_kv", "delta_rule_gelu", "delta_product_3_v_c"]
        ),
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "gate_granularity": st.sampled_from(["channel", "head"]),
        "max_chunk_size": st.sampled_from([4, 64]),
        "pooling_config": st.sampled_from([None, {"offsets": (0,)}, {"offsets": (1, 4)}]),
    }
)


def build(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LinearAttention(12, 4, linear_precision=torch.float64, **options).double().eval()


def tokens(pos, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, pos, 12, generator=generator, dtype=torch.float64)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


def test_it_is_what_its_description_says():
    layer, x = build(num_key_value_heads=2), tokens(7)
    q, k, v = layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
    before = torch.cat((k[:, :1], k[:, :1], k), dim=1)
    gate = torch.sigmoid((before[:, 2:] + before[:, 1:-1] + before[:, :-2]) / 3)

    def heads(y):
        return y.unflatten(2, (-1, 3)).transpose(1, 2)

    out, _ = delta_rule_recurrent(
        normalize(silu(heads(q)), dim=-1),
        normalize(silu(heads(k)), dim=-1),
        heads(v) / math.sqrt(3),
        heads(gate),
        mode=layer.linear_operator.mode,
    )
    merged = out.transpose(1, 2).flatten(2)
    merged = merged / (merged.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    close(layer(x), layer.out_proj(merged))


@settings(max_examples=25)
@given(options=OPTIONS, seed=st.integers(0, 100), nan=st.booleans())
def test_padding_anywhere_changes_nothing(options, seed, nan):
    layer = build(**options)
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, 13, generator=generator) < 0.6
    valid[:, 3] = True
    x = tokens(13)
    given = x.masked_fill(~valid[..., None], torch.nan) if nan else x
    out = layer(given, valid)
    assert out[valid].isfinite().all()
    for row in range(2):
        close(out[row, valid[row]], layer(x[row : row + 1, valid[row]])[0])


@settings(max_examples=25)
@given(options=OPTIONS, cuts=st.lists(st.integers(0, 13), max_size=4), seed=st.integers(0, 100))
def test_calls_that_go_on_are_one_call(options, cuts, seed):
    layer, x = build(**options), tokens(13)
    valid = torch.rand(2, 13, generator=torch.Generator().manual_seed(seed)) < 0.7
    whole = layer(x, valid)
    edges = sorted({0, 13, *cuts})
    parts = [layer(x[:, a:b], valid[:, a:b], use_cache=True) for a, b in itertools.pairwise(edges)]
    close(torch.cat(parts, dim=1)[valid], whole[valid])


@given(at=st.integers(0, 12), mode=st.sampled_from(["delta_rule", "delta_product_c"]))
def test_no_token_looks_ahead(at, mode):
    layer, x = build(operator_mode=mode), tokens(13)
    changed = x.clone()
    changed[:, at:] += 1
    close(layer(changed)[:, :at], layer(x)[:, :at])


def test_long_prefills_are_cut_where_they_can_be_taken_back():
    layer, x = build(), tokens(150)
    out = layer(x[:, :149], use_cache=True)
    close(out, layer(x[:, :149]))
    close(layer(x[:, 149:], use_cache=True), layer(x)[:, 149:])


@pytest.mark.parametrize("mode", ["delta_rule", "delta_product"])
def test_both_directions_are_the_sum_of_each(mode):
    layer, x = build(operator_mode=mode, bidirectional=True), tokens(9)
    one = build(operator_mode=mode)
    parts = {}

    def record(_, args, out):
        parts.setdefault("calls", []).append((args, out))

    handle = layer.linear_operator.register_forward_hook(record)
    out = layer(x)
    handle.remove()
    (args, there), (flipped, back) = parts["calls"]
    for forwards, backwards in zip(args[:3], flipped[:3], strict=True):
        close(backwards, forwards.flip(2))
    close(back, one.linear_operator(*flipped))
    total = (there + back.flip(2)).transpose(1, 2).flatten(2)
    normed = total / (total.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    close(out, layer.out_proj(normed))
    mask = torch.ones(2, 12).bool()
    mask[:, :3] = False
    close(layer(torch.cat((x[:, :3], x), dim=1), mask)[:, 3:], out)


def test_both_directions_have_no_state():
    with pytest.raises(ArgumentError, match=r"no state to go on from. Use use_cache=False"):
        build(bidirectional=True)(tokens(3), use_cache=True)


def test_projections_may_be_given():
    layer, x = build(), tokens(5)
    shared = build(shared_attn=True)
    projected = [layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)]
    close(shared(projected, out_proj=layer.out_proj), layer(x))
    assert not list(shared.parameters())
    with pytest.raises(ArgumentError, match=r"\[q, k, v\]"):
        shared(x)


def test_a_shared_cache_holds_each_layer():
    cache = LCache()
    layers = [build(linear_cache=cache, layer_idx=index) for index in range(2)]
    for layer in layers:
        layer(tokens(4), use_cache=True)
    assert sorted(cache.inputs_states) == [0, 1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 heads"),
        ({"num_key_value_groups": 2}, "in groups of 2"),
        ({"padding_side": "middle"}, "padding_side must be one of left, right, got 'middle'"),
        ({"gate_granularity": "row"}, "gate_granularity must be one of channel, head"),
        ({"pooling_config": {"offsets": (-1,)}}, "since they look back"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ArgumentError, match=match):
        build(**options)
