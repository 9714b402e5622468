import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.tptt import CausalAvgPool1d

X = torch.arange(1.0, 9)[None, :, None]


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ((0, 1, 2), [1, 4 / 3, 2, 3, 4, 5, 6, 7]),
        ((0,), [1, 2, 3, 4, 5, 6, 7, 8]),
        ((1, 3), [1, 1, 1.5, 2, 3, 4, 5, 6]),
    ],
)
def test_it_is_the_mean_of_what_came_before(offsets, expected):
    torch.testing.assert_close(
        CausalAvgPool1d(1, offsets)(X)[0, :, 0], torch.tensor(expected).float()
    )


def test_zeros_may_stand_before_the_first_token():
    out = CausalAvgPool1d(1, (0, 1), "constant")(X)
    assert out[0, :3, 0].tolist() == [0.5, 1.5, 2.5]


@given(
    offsets=st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True), at=st.integers(0, 7)
)
def test_it_never_looks_ahead_and_can_go_on(offsets, at):
    pool = CausalAvgPool1d(1, offsets)
    changed = X.clone()
    changed[:, at:] += 10
    assert torch.equal(pool(changed)[:, :at], pool(X)[:, :at])
    whole = torch.cat((pool.begin(X[:, :1]), X), dim=1)
    rest = pool(X[:, at:], whole[:, at : at + pool.reach])
    torch.testing.assert_close(rest, pool(X)[:, at:])


def test_neighbouring_features_are_averaged_where_there_are_too_many():
    x = torch.tensor([[[1.0, 3.0, 5.0, 7.0]]])
    assert CausalAvgPool1d(2)(x).tolist() == [[[2, 6]]]


def test_looking_ahead_is_refused():
    with pytest.raises(ArgumentError, match=r"since they look back, got \(0, -1\)"):
        CausalAvgPool1d(4, (0, -1))
    with pytest.raises(ArgumentError, match="mode must be one of replicate, constant, got 'wrap'"):
        CausalAvgPool1d(4, mode="wrap")
