"""The short way of one token is the long way of many."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.tptt import CausalAvgPool1d, LCache, LinearAttention
from pellucid.tptt import _linear_attention as module

OPTIONS = st.fixed_dictionaries(
    {
        "operator_mode": st.sampled_from(["delta_rule", "delta_rule_v", "delta_rule_kv"]),
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "gate_granularity": st.sampled_from(["channel", "head"]),
        "pooling_config": st.sampled_from([None, {"offsets": (0,)}, {"offsets": (1, 4)}]),
    }
)


def build(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"linear_precision": torch.float64, **options}
        return LinearAttention(12, 4, **options).to(options["linear_precision"]).eval()


@pytest.fixture
def counted(monkeypatch):
    """Lists the tokens that went the short way."""
    calls = []

    def count(*args, **options):
        decoded = decode(*args, **options)
        calls.extend([args] if decoded is not None else [])
        return decoded

    decode = module.decode_token
    monkeypatch.setattr(module, "decode_token", count)
    return calls


def tokens(pos, dtype=torch.float64):
    return torch.randn(2, pos, 12, generator=torch.Generator().manual_seed(0)).to(dtype)


@settings(max_examples=25)
@given(options=OPTIONS, at=st.integers(1, 8), seed=st.integers(0, 100), padded=st.booleans())
@torch.no_grad()
def test_tokens_one_by_one_are_one_pass(options, at, seed, padded):
    layer, x = build(**options), tokens(11)
    valid = torch.rand(2, 11, generator=torch.Generator().manual_seed(seed)) < 0.6
    if not padded:
        valid[:] = True
    given_mask = valid if padded else None
    whole = layer(x.masked_fill(~valid[..., None], torch.nan), given_mask)
    edges = [(0, at), *((t, t + 1) for t in range(at, 11))]
    parts = []
    for a, b in edges:
        mask = None if given_mask is None else given_mask[:, a:b]
        parts.append(layer(x[:, a:b], mask, use_cache=True))
    out = torch.cat(parts, dim=1)
    torch.testing.assert_close(out[valid], whole[valid], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_it_rounds_where_the_long_way_rounds(counted, monkeypatch, dtype):
    x, outs = tokens(9, dtype), []
    for is_long in (False, True):
        if is_long:
            monkeypatch.setattr(module, "decode_token", lambda *_, **__: None)
        layer = build(linear_precision=dtype)
        layer(x[:, :4], use_cache=True)
        outs.append(torch.cat([layer(x[:, t : t + 1], use_cache=True) for t in range(4, 9)], 1))
    assert len(counted) == 5
    limit = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*outs, atol=limit, rtol=limit)


@pytest.mark.parametrize(
    ("options", "short"),
    [
        ({}, 3),
        ({"operator_mode": "delta_product"}, 0),
        ({"operator_mode": "delta_rule_gelu"}, 0),
        ({"compat": "upstream"}, 0),
    ],
)
@torch.no_grad()
def test_it_is_taken_where_it_says_the_same(counted, options, short):
    layer = build(**options)
    for a, b in ((0, 4), (4, 5), (5, 6), (6, 7)):
        layer(tokens(7)[:, a:b], use_cache=True)
    assert len(counted) == short


def test_gradients_go_the_long_way(counted):
    layer = build()
    layer(tokens(4), use_cache=True)
    layer(tokens(1), use_cache=True).sum().backward()
    assert not counted
    assert layer.q_proj.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_what_it_leaves_can_be_undone(counted):
    cache = LCache()
    layer = build(linear_cache=cache)
    layer(tokens(5)[:, :4], use_cache=True)
    before = {name: cache[0][name] for name in ("recurrent_state", "windows", "began")}
    layer(tokens(5)[:, 4:], use_cache=True)
    assert len(counted) == 1
    assert sorted(cache[0]) == ["before", "began", "recent", "recurrent_state", "windows"]
    for name, value in before.items():
        assert cache[0]["before"][name] is value
    assert not torch.equal(cache[0]["recurrent_state"], before["recurrent_state"])


@torch.no_grad()
def test_a_state_may_lie_in_memory_as_it_likes(counted):
    layer, x = build(), tokens(6)
    layer(x[:, :5], use_cache=True)
    entry = dict(layer.linear_cache[0])
    expected = layer(x[:, 5:], use_cache=True)
    turned = entry["recurrent_state"].mT.contiguous().mT
    layer.linear_cache.replace(0, {**entry, "recurrent_state": turned})
    torch.testing.assert_close(layer(x[:, 5:], use_cache=True), expected)
    assert len(counted) == 2


@torch.no_grad()
def test_autocast_does_not_reach_it(counted):
    layer, x = build(linear_precision=torch.float32), tokens(7, torch.float32)
    expected = layer(x)
    layer(x[:, :5], use_cache=True)
    projected = [layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)]
    shared = build(linear_precision=torch.float32, shared_attn=True)
    shared([each[:, :5] for each in projected], use_cache=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = [shared([each[:, t : t + 1] for each in projected], use_cache=True) for t in (5, 6)]
    assert not counted
    out = layer.out_proj(torch.cat(outs, dim=1))
    torch.testing.assert_close(out, expected[:, 5:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offsets", [(0,), (2,), (0, 1, 2), (4, 1)])
def test_the_mean_of_the_last_token_is_that_of_all(offsets):
    pool, x = CausalAvgPool1d(12, offsets), tokens(9)
    last = pool.mean_of_last(x[:, 8 - pool.reach :].split(1, dim=1))
    torch.testing.assert_close(last, pool(x)[:, 8:], atol=1e-12, rtol=0)


@torch.no_grad()
def test_gates_that_are_as_good_as_one_are_the_same_both_ways(counted):
    layer = build(pooling_config={"offsets": (0,)})
    layer.k_proj.weight.mul_(60)  # sigmoids of 1 to the last digit
    x = tokens(6)
    parts = [layer(x[:, t : t + 1], use_cache=True) for t in range(6)]
    torch.testing.assert_close(torch.cat(parts, dim=1), layer(x), atol=1e-10, rtol=1e-10)
    assert len(counted) == 5
