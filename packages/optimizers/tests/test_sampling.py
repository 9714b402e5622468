import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import (
    StepRandom,
    random_single_flips,
    sample_blocks,
    sample_substitutions,
    substitute_at,
)

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


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_single_flips_leave_the_first_copy_intact_and_change_one_token_of_others(n_pos, n, seed):
    trigger, allowed = torch.arange(n_pos), torch.tensor([50, 60, 70])
    copies = random_single_flips(
        trigger, n, allowed, generator=StepRandom(seed, 1).generator("flips")
    )
    changed = copies != trigger
    assert copies.shape == (n, n_pos)
    assert changed.sum(dim=1).tolist() == [0, *[1] * (n - 1)]
    assert torch.isin(copies[changed], allowed).all()
    assert torch.equal(trigger, torch.arange(n_pos))


def test_single_flips_reach_every_position_and_id():
    generator = StepRandom(0, 1).generator("flips")
    trigger = torch.full((3,), 9)
    copies = random_single_flips(trigger, 300, vocab_size=4, generator=generator)
    for position in range(3):
        assert set(copies[:, position].tolist()) == {0, 1, 2, 3, 9}


@pytest.mark.parametrize("given", [{}, {"valid_token_ids": torch.arange(3), "vocab_size": 3}])
def test_single_flips_need_one_source_of_tokens(given):
    with pytest.raises(ValueError, match="valid_token_ids or vocab_size"):
        random_single_flips(torch.arange(2), 2, **given, generator=torch.Generator())


def test_tokens_are_substituted_at_one_position():
    trigger = torch.tensor([1, 2, 3])
    assert substitute_at(trigger, 1, torch.tensor([7, 8])).tolist() == [[1, 7, 3], [1, 8, 3]]
    assert trigger.tolist() == [1, 2, 3]
