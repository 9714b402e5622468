import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import StepRandom
from pellucid.optimizers._bulk_flips import combine_offers


def generator_of(seed):
    return StepRandom(seed, 1).generator("x")


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 20), st.integers(0, 99), st.data())
def test_candidates_take_offers_at_the_chosen_positions_alone(n_pos, k, n, seed, data):
    chosen = data.draw(st.permutations(range(n_pos)))[: data.draw(st.integers(1, n_pos))]
    trigger = torch.arange(n_pos)
    # The last offer for every position is the token in place.
    offered = torch.cat([100 * trigger[:, None] + 50 + torch.arange(k - 1), trigger[:, None]], 1)
    positions = torch.tensor(chosen)
    made = combine_offers(trigger, positions, offered, n_candidates=n, generator=generator_of(seed))
    rows = [tuple(row) for row in made.tolist()]
    assert len(set(rows)) == len(rows) <= n
    assert tuple(trigger.tolist()) not in rows
    for row in rows:
        for position, token in enumerate(row):
            is_chosen = position in chosen
            assert token in offered[position].tolist() if is_chosen else token == position
    n_ranked = min(k, n if len(chosen) == 1 else (n + 1) // 2)
    for rank in range(n_ranked):
        ranked = trigger.clone()
        ranked[positions] = offered[positions, rank]
        assert tuple(ranked.tolist()) in {*rows, tuple(trigger.tolist())}
    if len(chosen) == 1:
        assert len(rows) == min(n, k - 1 if n >= k else n)


def test_random_half_mixes_ranks():
    trigger, offered = torch.zeros(2, dtype=torch.int64), torch.tensor([[1, 2, 3], [4, 5, 6]])
    made = combine_offers(
        trigger, torch.arange(2), offered, n_candidates=200, generator=generator_of(0)
    )
    assert sorted(made.tolist()) == [[a, b] for a in (1, 2, 3) for b in (4, 5, 6)]
