import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pellucid.optimizers import project_on_entropy, project_on_simplex

points = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8)
close = {"atol": 1e-5, "rtol": 0.0}


def naive_projection(point):
    # The shift is the root of a falling function: bisect it.
    low, high = min(point) - 1.0, max(point)
    for _ in range(200):
        shift = (low + high) / 2
        total = sum(max(value - shift, 0.0) for value in point)
        low, high = (shift, high) if total > 1 else (low, shift)
    return torch.tensor([max(value - low, 0.0) for value in point])


def gini(probs):
    return float(1 - probs.square().sum())


@given(points)
def test_projection_is_the_nearest_distribution(point):
    found = project_on_simplex(torch.tensor(point))
    torch.testing.assert_close(found, naive_projection(point), **close)
    torch.testing.assert_close(project_on_simplex(found), found, **close)


@given(st.lists(points.filter(lambda p: len(p) == 3), min_size=1, max_size=3))
def test_rows_are_projected_on_their_own(rows):
    together = project_on_simplex(torch.tensor(rows))
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(project_on_simplex(torch.tensor(row)), found)


@given(points, st.floats(0, 1))
def test_entropy_is_limited_and_low_entropy_is_left_alone(point, strength):
    probs = project_on_simplex(torch.tensor(point))
    n_support = int((probs > 0).sum())
    limit = (1 - strength) * (1 - 1 / n_support)
    found = project_on_entropy(probs, strength)
    torch.testing.assert_close(found.sum(), torch.tensor(1.0), **close)
    assert (found >= 0).all()
    if gini(probs) <= limit - 1e-6:  # below what rounding decides
        torch.testing.assert_close(found, probs, **close)
    spread = probs[probs > 0]
    assume(float(spread.max() - spread.min()) > 1e-3 or n_support == 1)
    # Where the push leaves the simplex, cutting it off lowers the entropy only where mass is
    # moved to greater entries; the paper's projection promises no more than to come nearer.
    assert gini(found) <= gini(probs) + 1e-5


@given(st.floats(0.05, 0.95))
def test_push_between_two_tokens_meets_the_limit_exactly(strength):
    found = project_on_entropy(torch.tensor([0.51, 0.49, 0.0]), strength)
    assert abs(gini(found) - (1 - strength) * 0.5) < 1e-4
    assert found[2] == 0


def test_full_strength_chooses_and_none_changes_nothing():
    probs = torch.tensor([[0.4, 0.35, 0.25], [0.2, 0.2, 0.6]])
    assert torch.equal(project_on_entropy(probs, 0.0), probs)
    chosen = project_on_entropy(probs, 1.0)
    assert torch.equal(chosen.argmax(dim=-1), probs.argmax(dim=-1))
    even = torch.full((4,), 0.25)
    assert torch.equal(project_on_entropy(even, 1.0), even)
