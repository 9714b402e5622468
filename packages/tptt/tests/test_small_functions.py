"""Functions that published code calls by name."""

import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.tptt import (
    LCache,
    chunk_sequence,
    describe,
    ensure_stability,
    fast_invert_matrix,
    get_valid_chunk_size,
    match_dim,
    soft_clamp,
    unlinear_activation,
)


@given(total=st.integers(1, 300), most=st.integers(1, 80))
def test_the_chunk_size_is_the_largest_divisor_that_fits(total, most):
    size = get_valid_chunk_size(total, most)
    assert size == max(d for d in range(1, most + 1) if total % d == 0)


def test_no_length_has_chunks_of_one():
    assert get_valid_chunk_size(0, 4) == 1


def test_a_sequence_is_cut_in_order():
    x = torch.arange(24.0).reshape(1, 1, 6, 4)
    assert torch.equal(chunk_sequence(x, 3, 2).flatten(2, 3), x)
    with pytest.raises(ArgumentError, match="2 chunks of 2 are not the 6 positions"):
        chunk_sequence(x, 2, 2)


@given(size=st.integers(1, 9), seed=st.integers(0, 1000))
def test_the_inverse_is_an_inverse(size, seed):
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    inverse = fast_invert_matrix(lower, dtype=torch.float64)
    product = inverse @ (torch.eye(size) - lower.tril(-1))
    torch.testing.assert_close(product, torch.eye(size).double().expand_as(product))
    assert fast_invert_matrix(lower.float()).dtype == torch.float32


def test_the_activation_is_nowhere_negative():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    y = unlinear_activation(x)
    assert (y >= 0).all()
    by_hand = x[0] / 2 * torch.nn.functional.gelu(2 * x[0] / x[0].norm(), approximate="tanh")
    torch.testing.assert_close(y[0], by_hand)


@given(x=st.floats(-1e6, 1e6))
def test_soft_clamp_stays_within_and_keeps_the_middle(x):
    value = soft_clamp(torch.tensor(x, dtype=torch.float64), -1.0, 3.0).item()
    assert -1 <= value <= 3
    assert math.isclose(value, 1 + 2 * math.tanh((x - 1) / 2), abs_tol=1e-9)


def test_what_is_not_finite_is_brought_within_bounds():
    x = torch.tensor([math.nan, math.inf, -math.inf, 5.0, 0.5])
    assert ensure_stability(x, -1, 3).tolist() == [1, 3, -1, 3, 0.5]
    assert torch.equal(ensure_stability(x, 3, -1), ensure_stability(x, -1, 3))


def test_an_axis_is_cut_or_interpolated():
    x = torch.tensor([[0.0, 1.0, 2.0]])
    assert match_dim(x, 1, 3) is not None
    assert match_dim(x, 1, 2).tolist() == [[0, 1]]
    assert match_dim(x, 1, 6)[0, 0] == 0
    assert match_dim(x, 0, 2).tolist() == [[0, 1, 2]] * 2
    with pytest.raises(ArgumentError, match="target_size must be 1 or more, got 0"):
        match_dim(x, 1, 0)


def test_a_tensor_is_described_in_the_log(caplog):
    with caplog.at_level(logging.INFO, "pellucid.tptt"):
        describe(torch.tensor([1.0, 3.0]), "gate")
    assert "gate: shape (2,), min 1, max 3, mean 2, std 1" in caplog.text


def test_a_cache_keeps_values_without_their_graphs():
    cache = LCache()
    x = torch.ones(2, requires_grad=True) * 2
    cache.update(4, recurrent_state=x, qkv=(x, x))
    cache.update(4, offset=torch.zeros(2))
    assert sorted(cache[4]) == ["offset", "qkv", "recurrent_state"]
    assert not any(t.requires_grad for t in (cache[4]["recurrent_state"], *cache[4]["qkv"]))
    assert cache[3] is None
    cache.reset()
    assert cache[4] is None
    assert cache.inputs_states == {}
