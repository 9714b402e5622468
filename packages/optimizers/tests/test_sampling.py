import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import StepRandom, sample_blocks, sample_substitutions

shapes = st.tuples(st.integers(1, 8), st.integers(1, 5), st.integers(1, 30))


@given(shapes, st.data())
def test_substitutions_change_few_positions_to_offered_tokens(shape, data):
    n_positions, k, n_candidates = shape
    n_replace = data.draw(st.integers(1, n_positions))
    generator = StepRandom(data.draw(st.integers(0, 99)), 1).generator("x")
    trigger = torch.arange(n_positions)
    offered = 100 * (1 + torch.arange(n_positions))[:, None] + torch.arange(k)
    candidates = sample_substitutions(
        trigger, offered, n_candidates=n_candidates, n_replace=n_replace, generator=generator
    )
    changed = candidates != trigger
    assert candidates.shape == (n_candidates, n_positions)
    assert (changed.sum(dim=1) == n_replace).all()
    assert (candidates // 100 == torch.where(changed, trigger + 1, 0)).all()
    assert torch.equal(trigger, torch.arange(n_positions))


def test_substitutions_reach_every_position_and_token():
    generator = StepRandom(0, 1).generator("x")
    offered = torch.arange(10, 22).reshape(4, 3)
    candidates = sample_substitutions(
        torch.zeros(4, dtype=torch.int64),
        offered,
        n_candidates=400,
        n_replace=1,
        generator=generator,
    )
    counts = torch.bincount(candidates.flatten(), minlength=22)[10:]
    assert (counts > 10).all()


@given(st.integers(1, 8), st.integers(1, 30), st.data())
def test_blocks_are_neighbours_of_allowed_tokens(n_positions, n_candidates, data):
    block_len = data.draw(st.integers(1, n_positions))
    generator = StepRandom(data.draw(st.integers(0, 99)), 1).generator("x")
    allowed = torch.tensor([50, 60, 70])
    candidates = sample_blocks(
        torch.arange(n_positions),
        allowed,
        n_candidates=n_candidates,
        block_len=block_len,
        generator=generator,
    )
    for row in candidates.tolist():
        changed = [i for i, token in enumerate(row) if token != i]
        assert changed == list(range(changed[0], changed[0] + block_len))
        assert {row[i] for i in changed} <= {50, 60, 70}
