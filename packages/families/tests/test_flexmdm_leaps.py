import math

import pytest
import torch
from flexmdm_worlds import BOS, EOS, MASK, PAD, TOKENIZER
from hypothesis import given
from hypothesis import strategies as st

from pellucid.families.flexmdm._growing import Growing
from pellucid.families.flexmdm._leaps import Leap, fit, poisson, thin
from pellucid.xlm.sampling import RowStreams


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_thinning_keeps_each_alone(share, seed):
    probs = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probs /= probs.sum()
    naive = [
        sum(
            float(probs[n]) * math.comb(n, k) * share**k * (1 - share) ** (n - k)
            for n in range(k, 5)
        )
        for k in range(5)
    ]
    found = thin(probs, share)
    torch.testing.assert_close(found, torch.tensor(naive, dtype=torch.float64))
    mean = (found * torch.arange(5)).sum()
    torch.testing.assert_close(mean, share * (probs * torch.arange(5)).sum())


def test_thinning_many_has_no_overflow():
    probs = torch.full((1025,), 1 / 1025, dtype=torch.float64)
    torch.testing.assert_close(thin(probs, 0.3).sum(), torch.tensor(1.0, dtype=torch.float64))


@given(mean=st.floats(0, 60), uniform=st.floats(0, 1, exclude_max=True), most=st.integers(0, 90))
def test_poisson_inverts_the_sums(mean, uniform, most):
    total, count, term = math.exp(-mean), 0, math.exp(-mean)
    while uniform >= total and count < most:
        count += 1
        term *= mean / count
        total += term
    given_to = [torch.tensor([number], dtype=torch.float64) for number in (mean, uniform)]
    found = int(poisson(*given_to, most=most))
    # Sums are rounded differently where a number is at their edge.
    assert found == count or abs(total - uniform) < 1e-9 or abs(total - term - uniform) < 1e-9


COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(counts=COUNTS, room=st.integers(0, 12), seed=st.integers(0, 99))
def test_what_fits_is_taken_lowest_keys_first(counts, room, seed):
    keys = torch.rand(1, len(counts), generator=torch.Generator().manual_seed(seed)).double()
    taken, left = [0] * len(counts), room
    for at in keys[0].argsort().tolist():
        taken[at] = min(counts[at], left)
        left -= taken[at]
    found = fit(torch.tensor([counts]), torch.tensor([room]), keys)
    assert found[0].tolist() == taken
    assert found.sum() == min(room, sum(counts))


def texts(n_rows, n_masks, *, room=40):
    ids = torch.tensor([[BOS, *[MASK] * n_masks, EOS]]).expand(n_rows, -1)
    shown = torch.ones_like(ids, dtype=torch.bool)
    batch = {"input_ids": ids, "attention_mask": shown, "fixed": ids == BOS}
    return Growing.of(batch, tokenizer=TOKENIZER, max_new_tokens=room, max_length=0)


def leap(way, n_rows, *, share=0.3, step=0):
    half = torch.full((n_rows,), 0.5, dtype=torch.float64)
    return Leap(
        way,
        RowStreams(7, torch.arange(n_rows)),
        step,
        insert_share=share,
        unmask_share=share,
        insert_carry=half,
        unmask_carry=half,
    )


N = 8000


@pytest.mark.parametrize("way", ["independent", "systematic"])
@pytest.mark.parametrize("kind", ["expectation", "distribution"])
def test_each_slot_gets_what_is_expected_of_it(way, kind):
    """Means are those of thinned gaps; systematic sums are the expectation, rounded."""
    state, width = texts(N, 3), 3 + 2 + 40
    said = torch.zeros(N, width, dtype=torch.float64)
    said[:, 1:5] = torch.tensor([0.2, 1.5, 0.0, 2.5], dtype=torch.float64)
    lengths = said
    if kind == "distribution":
        # All on the two whole numbers beside the expectation.
        low = said.floor()
        chance = torch.stack(
            [(said - low) * (low + 1 == k) + (1 - said + low) * (low == k) for k in range(5)], -1
        )
        lengths = chance.clamp(min=1e-30).log()
    counts = leap(way, N).count_insertions(state, lengths, is_distribution=kind == "distribution")
    assert (counts[:, 0] == 0).all()
    assert (counts[:, 5:] == 0).all()
    mean = counts[:, 1:5].double().mean(0)
    # 0.3 of 2.5 has a variance below 0.8: at 4.5 deviations, an error of 0.06 is found.
    torch.testing.assert_close(mean, 0.3 * said[0, 1:5], rtol=0, atol=4.5 * math.sqrt(0.8 / N))
    if way == "systematic":
        assert set(counts.sum(1).tolist()) == {1, 2}


@pytest.mark.parametrize("way", ["independent", "systematic"])
def test_masks_are_lifted_with_the_chance_of_the_leap(way):
    counts = leap(way, N).count_unmaskings(texts(N, 9)).double()
    assert abs(float(counts.mean()) - 2.7) < 4.5 * math.sqrt(9 * 0.21 / N)
    if way == "systematic":
        assert set(counts.tolist()) == {2, 3}


def test_where_room_is_short_no_slot_is_preferred():
    state = texts(N, 3, room=1)
    lengths = torch.full((N, 6), 30.0, dtype=torch.float64)
    counts = leap("independent", N).count_insertions(state, lengths, is_distribution=False)
    assert (counts.sum(1) == 1).all()
    share = counts[:, 1:5].double().mean(0)
    torch.testing.assert_close(share, torch.full((4,), 0.25).double(), rtol=0, atol=0.025)


def test_rounding_carries_what_is_left_over():
    state = texts(1, 0)
    lengths = torch.full((1, state.ids.shape[1]), 0.5, dtype=torch.float64)
    rounded = leap("rounded", 1, share=0.2)
    assert rounded.count_insertions(state, lengths, is_distribution=False).sum() == 0
    late = Leap(
        "rounded",
        rounded.streams,
        3,
        insert_share=0.2,
        unmask_share=0.2,
        insert_carry=torch.tensor([0.95], dtype=torch.float64),
        unmask_carry=torch.tensor([0.5], dtype=torch.float64),
    )
    counts = late.count_insertions(state, lengths, is_distribution=False)
    assert counts[0].tolist() == [0, 1, *[0] * 40]


TOKENS = st.lists(st.tuples(st.integers(7, 8), st.booleans(), st.integers(0, 3)), max_size=5)


@given(rows=st.lists(TOKENS, min_size=1, max_size=4), left=st.integers(0, 3))
def test_inserting_is_what_it_is_one_by_one(rows, left):
    """Masks come before their slots, and what is given or closed moves with its token."""
    rows = [[*row, (EOS, False, 1)] for row in rows]
    width = left + max(map(len, rows))
    room = sum(n for row in rows for *_, n in row)

    def grid(index, empty):
        padded = [[empty] * left + [cell[index] for cell in row] for row in rows]
        return torch.tensor([row + [empty] * (width - len(row)) for row in padded])

    ids = grid(0, PAD)
    batch = {"input_ids": ids, "attention_mask": ids != PAD, "fixed": grid(1, True)}
    state = Growing.of(batch, tokenizer=TOKENIZER, max_new_tokens=room, max_length=0)
    counts = torch.nn.functional.pad(grid(2, 0), (0, room))
    assert state.ids.shape == counts.shape
    grown = state.insert(counts)
    for row, cells in enumerate(rows):
        out, closed = [], []
        for token, is_closed, n in cells:
            out += [MASK] * n + [token]
            closed += [False] * n + [is_closed]
        pads = [PAD] * (width + room - left - len(out))
        assert grown.room[row] == len(cells) + room - len(out)
        assert grown.ids[row].tolist() == [PAD] * left + out + pads
        assert grown.shown[row].tolist() == [token != PAD for token in grown.ids[row].tolist()]
        here = grown.shown[row]
        assert grown.closed[row][here].tolist() == closed
        assert grown.given[row][here].tolist() == [token != MASK for token in out]
        assert grown.index[row][here].tolist() == list(range(len(out)))
    assert grown.width == max(left + len(row) + sum(n for *_, n in row) for row in rows)
