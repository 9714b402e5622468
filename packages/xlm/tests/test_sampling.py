import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.xlm.modules import (
    add_gumbel_noise,
    keep_top_k,
    keep_top_p,
    masked_mean,
    sample_categorical,
    sample_from_logits,
    sample_from_top_k,
    sample_from_top_p,
    select_best,
    select_random_indices,
    stratified_uniforms,
    sum_rows,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logits_of(rows=4, d_vocab=7, seed=0):
    return 2 * torch.randn(rows, d_vocab, generator=seeded(seed))


def test_draws_have_their_probabilities():
    probs = torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0])
    drawn = sample_categorical(probs.expand(20_000, -1), generator=seeded())
    rates = drawn.bincount(minlength=5) / 20_000
    torch.testing.assert_close(rates, probs, rtol=0, atol=0.02)
    assert rates[1] == rates[4] == 0


@given(uniform=st.floats(0, 1, exclude_max=True), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_what_has_probability_zero_is_never_drawn(uniform, scale):
    probs = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0], dtype=torch.float64) * scale
    drawn = sample_categorical(probs, uniforms=torch.tensor(uniform, dtype=torch.float64))
    assert drawn == (1 if uniform < 0.25 else 3)


def test_a_row_does_not_care_which_others_are_drawn_with_it():
    probs, uniforms = logits_of().softmax(-1), torch.rand(4, generator=seeded(), dtype=torch.double)
    together = sample_categorical(probs, uniforms=uniforms)
    kept = torch.tensor([True, False, True, False])
    assert torch.equal(sample_categorical(probs[kept], uniforms=uniforms[kept]), together[kept])


@given(k=st.integers(1, 9), seed=st.integers(0, 99))
def test_top_k_keeps_the_best(k, seed):
    logits = logits_of(seed=seed)
    kept = keep_top_k(logits, k).isfinite()
    assert (kept.sum(-1) == min(k, 7)).all()
    assert torch.equal(kept, (logits[..., None, :] > logits[..., None]).sum(-1) < k)


@given(p=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_top_p_keeps_the_fewest_that_suffice(p, seed):
    logits = logits_of(seed=seed)
    kept = keep_top_p(logits, p).isfinite()
    probs = logits.softmax(-1)
    for row, is_kept in zip(probs, kept, strict=True):
        n_needed, total = 0, 0.0
        for value in row.sort(descending=True).values.tolist():
            if total >= p - 1e-6 and n_needed:
                break
            n_needed, total = n_needed + 1, total + value
        assert abs(int(is_kept.sum()) - n_needed) <= (abs(total - p) < 1e-5)
        assert row[is_kept].min() >= row[~is_kept].max() if not is_kept.all() else True


def test_filters_work_on_logits_and_not_on_probabilities():
    # Two tokens left after the cut keep their odds; a cut of probabilities read as logits would
    # leave them nearly even.
    logits = torch.tensor([[math.log(0.9), math.log(0.09), math.log(0.01)]])
    torch.testing.assert_close(
        keep_top_k(logits, 2).softmax(-1), torch.tensor([[0.909091, 0.090909, 0.0]])
    )


def test_named_samplers_draw_what_is_left():
    logits = logits_of(400)
    best_two = logits.topk(2).indices
    drawn = sample_from_top_k(2, logits, generator=seeded())
    assert (drawn[:, None] == best_two).any(-1).all()
    assert (drawn != best_two[:, 0]).any()
    assert torch.equal(sample_from_top_p(1e-6, logits), logits.argmax(-1))
    assert torch.equal(sample_from_logits(logits, temperature=0.0), logits.argmax(-1))


@pytest.mark.parametrize(
    "draw", [sample_from_logits, lambda x, **g: sample_from_top_p(0.9, x, **g)]
)
def test_a_generator_decides_all(draw):
    logits = logits_of(100)
    before = torch.get_rng_state()
    first, second = draw(logits, generator=seeded(1)), draw(logits, generator=seeded(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(logits, generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_gumbel_noise_makes_the_largest_a_draw():
    logits = torch.tensor([0.5, 0.2, 0.3]).log().expand(20_000, -1)
    drawn = add_gumbel_noise(logits, generator=seeded()).argmax(-1)
    rates = drawn.bincount(minlength=3) / 20_000
    torch.testing.assert_close(rates, torch.tensor([0.5, 0.2, 0.3]), rtol=0, atol=0.02)
    assert torch.equal(add_gumbel_noise(logits, temperature=0.0, generator=None), logits)


def test_the_masked_mean_reads_nothing_else():
    values = torch.tensor([[1.0, 3.0, math.nan], [math.inf, 5.0, 2.0]])
    mask = torch.tensor([[True, True, False], [False, True, False]])
    assert masked_mean(values, mask) == 3.0
    assert masked_mean(values, mask, dim=1).tolist() == [2.0, 5.0]
    assert masked_mean(values, torch.zeros_like(mask)) == 0.0


@given(seed=st.integers(0, 99))
def test_rows_are_summed_up_each_alone(seed):
    grid = torch.randn(4, 5, generator=seeded(seed), dtype=torch.float64)
    where = torch.rand(4, 5, generator=seeded(seed + 1)) < 0.4
    torch.testing.assert_close(sum_rows(grid[where], where), (grid * where).sum(1))


@given(n_rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_each_part_gets_one_number_and_no_row_a_part_of_its_own(n_rows, seed):
    drawn = stratified_uniforms(n_rows, generator=seeded(seed))
    assert (drawn * n_rows).floor().sort().values.tolist() == list(range(n_rows))
    assert torch.equal(drawn, stratified_uniforms(n_rows, generator=seeded(seed)))


def test_a_row_may_get_any_part():
    first = torch.stack([stratified_uniforms(4, generator=seeded(seed))[0] for seed in range(2000)])
    rates = (first * 4).long().bincount(minlength=4) / 2000
    torch.testing.assert_close(rates, torch.full((4,), 0.25), rtol=0, atol=5 * 0.0097)


@given(seed=st.integers(0, 99), counts=st.lists(st.integers(0, 8), min_size=3, max_size=3))
def test_as_many_are_selected_as_are_asked_for(seed, counts):
    allowed = torch.rand(3, 6, generator=seeded(seed)) < 0.6
    chosen = select_random_indices(allowed, torch.tensor(counts), generator=seeded(seed))
    assert not (chosen & ~allowed).any()
    expected = torch.minimum(torch.tensor(counts), allowed.sum(1))
    assert torch.equal(chosen.sum(1), expected)


def test_every_allowed_position_is_as_likely():
    allowed = torch.tensor([True, False, True, True]).expand(9000, -1)
    counts = torch.full((9000,), 2)
    rates = select_random_indices(allowed, counts, generator=seeded()).float().mean(0)
    torch.testing.assert_close(rates, torch.tensor([2 / 3, 0, 2 / 3, 2 / 3]), rtol=0, atol=0.03)


def test_the_best_are_selected_and_the_leftmost_of_equals():
    scores = torch.tensor([[1.0, 3.0, 3.0, 9.0]])
    allowed = torch.tensor([[True, True, True, False]])
    assert select_best(scores, allowed, torch.tensor([1])).tolist() == [[False, True, False, False]]
    assert select_best(scores, allowed, torch.tensor([9])).tolist() == [[True, True, True, False]]


def test_bad_input_is_named():
    logits = logits_of()
    with pytest.raises(ArgumentError, match="top_k is 0"):
        keep_top_k(logits, 0)
    with pytest.raises(ArgumentError, match=r"top_p is 1\.5"):
        keep_top_p(logits, 1.5)
    with pytest.raises(ArgumentError, match=r"temperature is -1\.0"):
        sample_from_logits(logits, temperature=-1.0)
    with pytest.raises(ArgumentError, match="sums to zero or is not finite"):
        sample_categorical(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match="sums to zero or is not finite"):
        sample_from_logits(torch.full((1, 3), -torch.inf))
