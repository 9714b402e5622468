"""Random numbers that belong to rows: uniform, independent, and the same in any batch.

The statistics are of N = 262,144 numbers. A chi-square of 255 degrees of freedom has a standard
deviation of 22.6; the bound is six of them above its mean, which a true generator passes but once
in ten million seeds, and which relative deviations of the cells of 3 % on average (a noncentrality
of 236) would break with a probability above 0.99. Bounds on means are five standard errors.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.xlm.sampling import RowStreams, Stream

N_ROWS, N_STEPS, N_PLACES = 256, 8, 128
WORD = (1 << 64) - 1
CHI_SQUARE_BOUND = 255 + 6 * math.sqrt(2 * 255)


def grid(seed=0, *, first_row=0, first_step=0, first_place=0, stream=0):
    """Numbers of many addresses, (row, step, place)."""
    streams = RowStreams(seed, torch.arange(N_ROWS) + first_row)
    places = (torch.arange(N_PLACES) + first_place).expand(N_ROWS, -1)
    steps = [
        streams.uniforms(places, step=first_step + step, stream=stream) for step in range(N_STEPS)
    ]
    return torch.stack(steps, dim=1)


def chi_square(cells):
    counts = torch.bincount(cells.flatten(), minlength=256).double()
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def mixed(bits):
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


def naive(seed, row, step, stream, place):
    state = mixed(seed & WORD)
    for part in (row, step, stream, place):
        state = mixed((state + (part + 1) * 0x9E3779B97F4A7C15) & WORD)
    return (state >> 11) * 2.0**-53


NUMBERS = st.integers(0, 2**40)


@given(st.integers(0, 2**66), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_a_number_is_the_hash_of_its_address(seed, row, step, stream, place):
    streams = RowStreams(seed, torch.tensor([row]))
    found = streams.uniforms(torch.tensor([[place]]), step=step, stream=stream)
    assert found.item() == naive(seed, row, step, stream, place)
    same = streams.uniforms(torch.tensor([[place]]), step=torch.tensor([step]), stream=stream)
    assert torch.equal(found, same)


@pytest.mark.parametrize("seed", [0, 1, 2**61 + 7])
def test_numbers_are_uniform(seed):
    drawn = grid(seed)
    assert drawn.dtype == torch.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert chi_square((drawn * 256).long()) < CHI_SQUARE_BOUND
    assert len(drawn.unique()) == drawn.numel()
    bits = (drawn * 2**53).long().flatten()
    for bit in range(53):
        share = ((bits >> bit) & 1).double().mean()
        assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(drawn.numel())


NEIGHBOURS = {
    "row": {"first_row": 1},
    "far row": {"first_row": N_ROWS},
    "step": {"first_step": 1},
    "place": {"first_place": 1},
    "stream": {"stream": Stream.ORDER},
    "seed": {"seed": 1},
    "all at once": {"first_row": 1, "first_step": 1, "first_place": 1, "stream": 1, "seed": 1},
    "row against place": {"first_row": 1, "first_place": -1},
}


@pytest.mark.parametrize("move", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_numbers_of_neighbouring_addresses_are_independent(move):
    first, second = grid(), grid(**move)
    cells = (first * 16).long() * 16 + (second * 16).long()
    assert chi_square(cells) < CHI_SQUARE_BOUND
    together = torch.stack((first.flatten(), second.flatten()))
    assert abs(torch.corrcoef(together)[0, 1]) < 5 / math.sqrt(first.numel())


def test_sums_over_rows_steps_and_places_are_as_wide_as_they_should_be():
    """What is correlated over many addresses shows in the variance of their mean."""
    drawn = grid(3)
    for dims in itertools.combinations(range(3), 2):
        means = drawn.mean(dim=dims)
        n_summed = drawn.numel() // means.numel()
        spread = float(((means - 0.5) ** 2).sum() * 12 * n_summed)
        assert abs(spread - means.numel()) < 6 * math.sqrt(2 * means.numel())


def test_gumbels_choose_by_weight():
    weights = torch.tensor([0.5, 0.3, 0.2])
    streams = RowStreams(0, torch.arange(20_000))
    noise = streams.gumbels(torch.arange(3).expand(20_000, 3))
    shares = (weights.log() + noise).argmax(dim=1).bincount(minlength=3) / 20_000
    # Five standard errors of a share of 0.5.
    assert (shares - weights).abs().max() < 5 * 0.5 / math.sqrt(20_000)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6, unique=True), st.integers(0, 9))
def test_a_row_has_the_same_numbers_in_any_batch(rows, shift):
    places = torch.arange(12).expand(len(rows), -1)
    together = RowStreams(5, torch.tensor(rows)).uniforms(places, step=2)
    for number, drawn in zip(rows, together, strict=True):
        alone = RowStreams(5, torch.tensor([number]))
        assert torch.equal(alone.uniforms(places[:1], step=2)[0], drawn)
        # Places further to the right, as padding makes them, with the same index in the text.
        padded = (torch.arange(12 + shift) - shift)[None]
        assert torch.equal(alone.uniforms(padded, step=2)[0, shift:], drawn)


def test_some_rows_are_kept():
    streams = RowStreams(1, torch.tensor([4, 9, 2]))
    assert streams.keep(torch.tensor([True, False, True])).rows.tolist() == [4, 2]
    assert streams.keep(torch.tensor([2, 0])).rows.tolist() == [2, 4]
    assert streams.keep(torch.tensor([1])).seed == 1


def test_streams_of_a_batch():
    ids = torch.zeros(3, 5, dtype=torch.int64)
    assert RowStreams.of({"input_ids": ids}, None).rows.tolist() == [0, 1, 2]
    assert RowStreams.of({"input_ids": ids}, None).seed == 0
    numbered = {"input_ids": ids, "row_ids": torch.tensor([7, 8, 30], dtype=torch.int32)}
    assert RowStreams.of(numbered, None).rows.tolist() == [7, 8, 30]
    assert RowStreams.of({**numbered, "row_seed": 12}, torch.Generator()).seed == 12


def test_a_generator_gives_another_seed_each_time_and_the_same_again():
    ids = torch.zeros(1, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    seeds = [RowStreams.of({"input_ids": ids}, generator).seed for _ in range(3)]
    assert len(set(seeds)) == 3
    generator.manual_seed(3)
    # One number is drawn for a batch of any size.
    assert [
        RowStreams.of({"input_ids": ids.expand(9, 4)}, generator).seed for _ in range(3)
    ] == seeds
    assert torch.equal(torch.get_rng_state(), before)
