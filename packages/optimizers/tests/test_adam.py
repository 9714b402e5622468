import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import AdamState
from pellucid.optimizers._adam import adam_update, clip_norm, cosine_rate, scale_to_greatest


def new_state(point):
    zeros = torch.zeros_like(point)
    ids = torch.zeros(len(point), dtype=torch.int64)
    return AdamState(trigger_ids=ids, loss=0.0, first_moment=zeros, second_moment=zeros)


def naive_adam(point, grads, lr):
    # One number at a time, in double precision, as in algorithm 1 of the paper.
    first = second = 0.0
    for t, grad in enumerate(grads, start=1):
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad**2
        point -= lr * (first / (1 - 0.9**t)) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return point


@given(st.integers(0, 999), st.integers(1, 6), st.floats(1e-6, 1e6))
def test_updates_are_those_of_the_paper(seed, n_updates, scale):
    generator = torch.Generator().manual_seed(seed)
    start, grads = (
        torch.randn(2, generator=generator),
        torch.randn(n_updates, 2, generator=generator),
    )
    grads = scale * grads
    point, state = start[:, None], new_state(start[:, None])
    for grad in grads:
        state, direction = adam_update(state, grad[:, None])
        point = point - 0.1 * direction
    for i in range(2):
        expected = naive_adam(float(start[i]), grads[:, i].tolist(), 0.1)
        assert float(point[i, 0]) == pytest.approx(expected, abs=1e-5, rel=1e-4)
    assert state.n_updates == n_updates


def test_update_changes_no_tensor_of_the_old_state():
    state = new_state(torch.zeros(2, 2))
    before = dataclasses.replace(state)
    adam_update(state, torch.ones(2, 2))
    assert torch.equal(state.first_moment, before.first_moment)
    assert not state.first_moment.any()


@given(st.floats(1e-3, 10), st.integers(1, 50))
def test_cosine_falls_from_the_rate_to_nothing(lr, n_steps):
    rates = [cosine_rate(lr, n, n_steps) for n in range(n_steps + 2)]
    assert rates[0] == pytest.approx(lr)
    assert rates[-1] == rates[-2] == pytest.approx(0, abs=1e-12)
    assert sorted(rates, reverse=True) == rates
    # Half a cosine is symmetric around its middle.
    assert [a + b for a, b in zip(rates[:-1], rates[-2::-1], strict=True)] == pytest.approx(
        [lr] * (n_steps + 1)
    )


@given(st.integers(0, 999), st.floats(0.01, 100), st.booleans())
def test_clipped_gradients_are_short_and_point_the_same_way(seed, limit, by_position):
    grad = 5 * torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    clipped = clip_norm(grad, limit, by_position=by_position)
    parts = list(zip(grad, clipped, strict=True)) if by_position else [(grad, clipped)]
    for before, after in parts:
        assert after.norm() <= limit * (1 + 1e-5)
        shrunk = min(1.0, limit / float(before.norm()))
        torch.testing.assert_close(after, before * shrunk)


def test_scaling_keeps_proportions_and_leaves_zeros():
    moment = torch.tensor([[1.0, -4.0, 2.0], [0.0, 0.0, 0.0]])
    scaled = scale_to_greatest(moment)
    assert scaled.tolist() == [[0.25, -1.0, 0.5], [0.0, 0.0, 0.0]]


def test_no_limit_and_no_gradient_are_left_alone():
    grad = torch.zeros(2, 2)
    assert clip_norm(grad, None) is grad
    assert torch.equal(clip_norm(grad, 1.0, by_position=True), grad)
    assert math.isfinite(float(clip_norm(grad, 1e-30).sum()))
