"""The arithmetic of orders: doubts, ranks, and how many are filled at once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.xlm.sampling import (
    DOUBTS,
    block_numbers,
    count_within,
    doubts_at,
    rank,
    share_of_steps,
)


def test_the_rule_of_doubts_takes_a_prefix_that_stays_below():
    doubts = torch.tensor([[0.1, 0.5, 0.2, 0.0], [0.9, 0.8, 0.7, 0.6]])
    is_open = torch.tensor([[True, True, True, False], [True] * 4])
    # Of 0.1, 0.2, 0.5 the sums are 0.1, 0.3, 0.8; without the largest 0, 0.1, 0.3.
    for threshold, with_all, without in ((0.25, 1, 2), (0.35, 2, 3), (1e-9, 1, 1), (0.9, 3, 3)):
        for spares_largest, expected in ((False, with_all), (True, without)):
            counts = count_within(doubts, is_open, threshold, spares_largest=spares_largest)
            assert counts[0] == expected
    assert count_within(doubts, is_open, 0.65, spares_largest=True)[1] == 2
    assert count_within(doubts, is_open, 0.65, spares_largest=False)[1] == 1


def test_the_surest_is_ranked_first_and_the_leftmost_of_equals():
    doubts, is_open = torch.tensor([[0.5, 0.2, 0.2, 0.0]]), torch.tensor([[True] * 3 + [False]])
    assert rank(doubts, is_open).tolist() == [[2, 0, 1, 3]]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), steps=st.integers(1, 20))
def test_no_step_is_empty_and_all_are_enough(sizes, steps):
    """Count down through blocks as the sampler does."""
    left, n_steps = list(sizes), 0
    for steps_left in range(steps, 0, -1):
        if not left:
            break
        counts = [torch.tensor([n]) for n in (sum(left), left[0], len(left))]
        now = int(share_of_steps(*counts, steps_left))
        assert 1 <= now <= left[0]
        left[0] -= now
        left = left if left[0] else left[1:]
        n_steps += 1
    assert not left or steps < len(sizes)
    assert n_steps <= min(steps, sum(sizes))


def test_doubts_are_zero_of_what_is_certain_and_grow_with_doubt():
    certain, unsure = torch.tensor([0.0, 1.0, 0.0]), torch.full((3,), 1 / 3)
    for doubt in DOUBTS.values():
        assert doubt(certain) == 0
        assert doubt(unsure) > doubt(torch.tensor([0.1, 0.8, 0.1])) > 0


@given(seed=st.integers(0, 99), temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_doubts_stand_at_their_positions(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 4, generator=generator)
    where = torch.rand(2, 5, generator=generator) < 0.5
    for name, doubt in DOUBTS.items():
        found = doubts_at(where, logits[where], confidence=name, temperature=temperature)
        expected = doubt((logits / temperature).softmax(-1)).double() * where
        assert torch.allclose(found, expected)


def test_blocks_are_counted_from_the_first_gap():
    writable = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0, 1]]).bool()
    numbers = block_numbers(writable, 2)
    assert numbers.tolist() == [[0, 0, 1, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3, 3]]
