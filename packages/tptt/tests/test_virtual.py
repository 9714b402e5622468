import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.tptt import ModeError, expand_virtual_tokens, expand_writes
from pellucid.tptt._virtual import rotate_pairs

X = torch.tensor([[1.0, 2.0], [4.0, 6.0], [9.0, 12.0]]).double()[None, None]


def slots(expanded, n):
    return expanded.unflatten(2, (-1, n)).unbind(3)


def lagged(lag):
    return torch.cat((torch.zeros(1, 1, lag, 2).double(), X[:, :, : 3 - lag]), dim=2)


def test_published_differences_hold_one_term_in_each_slot():
    two = slots(expand_virtual_tokens(X, 2, "derivative"), 2)
    assert torch.equal(two[0], -X / 2)
    assert torch.equal(two[1], lagged(1) / 2)
    three = slots(expand_virtual_tokens(X, 3, "derivative"), 3)
    for slot, (coefficient, lag) in enumerate([(0.25, 0), (-0.5, 1), (0.25, 2)]):
        assert torch.equal(three[slot], coefficient * lagged(lag))


def test_published_rotations_go_round_once():
    four = slots(expand_virtual_tokens(X, 4, "rotative"), 4)
    turned = torch.stack((-X[..., 1], X[..., 0]), dim=-1)
    for got, expected in zip(four, (X, turned, -X, -turned), strict=True):
        torch.testing.assert_close(got, expected)


def test_published_combinations_are_averages():
    zero, one = slots(expand_virtual_tokens(X, 2, "combined"), 2)
    torch.testing.assert_close(zero, X / 4)
    torch.testing.assert_close(one, -X / 2 + lagged(1) / 4)


@pytest.mark.parametrize("trick", ["derivative", "rotative", "combined", "cte"])
def test_one_virtual_token_is_the_token(trick):
    torch.testing.assert_close(expand_virtual_tokens(X, 1, trick), X)
    assert torch.equal(expand_writes(X, 1, trick), X)


def test_differences_are_those_of_the_formula():
    zero, one, two = slots(expand_writes(X, 3, "derivative"), 3)
    assert torch.equal(zero, X)
    assert torch.equal(one, (X - lagged(1)) / 2)
    assert torch.equal(two, (X - 2 * lagged(1) + lagged(2)) / 4)


def test_the_tokens_before_are_looked_at():
    whole = expand_writes(X, 3, "combined")
    parts = expand_writes(X[:, :, 2:], 3, "combined", previous=X[:, :, :2])
    assert torch.equal(whole[:, :, 6:], parts)


@given(angle=st.floats(-7, 7), width=st.integers(1, 7))
def test_a_rotation_keeps_lengths_and_an_odd_last_feature(angle, width):
    x = torch.arange(1.0, width + 1).double()
    turned = rotate_pairs(x, angle)
    torch.testing.assert_close(turned.norm(), x.norm())
    torch.testing.assert_close(rotate_pairs(turned, -angle), x)
    if width % 2:
        assert turned[-1] == x[-1]


def test_slots_of_a_rotation_are_half_a_turn_apart_at_most():
    _, one = slots(expand_writes(X, 2, "rotative"), 2)
    torch.testing.assert_close(one, rotate_pairs(X, math.pi / 2))


@pytest.mark.parametrize("expand", [expand_virtual_tokens, expand_writes])
def test_an_unknown_trick_is_refused(expand):
    with pytest.raises(ModeError, match=r"trick 'twist' is not known. Use one of derivative"):
        expand(X, 2, "twist")
