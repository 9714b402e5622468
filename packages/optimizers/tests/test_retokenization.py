import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import RetokenizationError
from pellucid.optimizers import (
    draw_surviving,
    retokenize_filtering,
    retokenize_mask,
    retokenize_transform,
    take_surviving,
)
from pellucid.testing import TinyTokenizer

TOKENIZER = TinyTokenizer()
rows = st.lists(
    st.lists(st.integers(3, TOKENIZER.vocab_size - 1), min_size=4, max_size=4),
    min_size=1,
    max_size=8,
)


@given(rows)
def test_mask_equals_one_row_at_a_time(ids):
    expected = [TOKENIZER.encode(TOKENIZER.decode(row)) == row for row in ids]
    candidates = torch.tensor(ids)
    assert retokenize_mask(candidates, TOKENIZER).tolist() == expected
    assert len(retokenize_filtering(candidates, TOKENIZER)) == sum(expected)


def test_tokens_that_merge_do_not_survive():
    t, h = TOKENIZER.encode("t")[0], TOKENIZER.encode("h")[0]
    (merged,) = TOKENIZER.encode("th")
    assert retokenize_mask(torch.tensor([[t, h], [merged, t]]), TOKENIZER).tolist() == [False, True]


@given(st.integers(1, 20), st.integers(1, 5))
def test_survivors_are_drawn_until_there_are_enough(n_candidates, every):
    drawn = []

    def draw(round_number):
        start = round_number * n_candidates
        drawn.append(torch.arange(start, start + n_candidates)[:, None])
        return drawn[-1]

    kept = draw_surviving(draw, lambda ids: ids[:, 0] % every == 0, n_candidates)
    pool = torch.cat(drawn)
    expected = pool[pool[:, 0] % every == 0][:n_candidates]
    assert torch.equal(kept, expected)
    assert len(kept) == n_candidates or len(drawn) == 8


def test_no_survivor_is_an_error_with_a_remedy():
    with pytest.raises(RetokenizationError, match="use_retokenize=False"):
        draw_surviving(
            lambda _: torch.zeros(2, 3, dtype=torch.int64),
            lambda ids: torch.zeros(len(ids), dtype=torch.bool),
            2,
        )


@given(rows)
def test_transform_keeps_lengths_and_what_survives(ids):
    before = torch.tensor(ids)
    after = retokenize_transform(before, TOKENIZER)
    for row, old in zip(after.tolist(), ids, strict=True):
        again = TOKENIZER.encode(TOKENIZER.decode(old))
        n_kept = min(len(again), len(old))
        assert row == again[:n_kept] + old[n_kept:]
    survives = retokenize_mask(before, TOKENIZER)
    assert torch.equal(after[survives], before[survives])


def test_transform_cuts_off_and_fills_up():
    merging = torch.tensor([[*TOKENIZER.encode("t"), *TOKENIZER.encode("h"), 40, 41]])
    (merged,) = TOKENIZER.encode("th")
    assert retokenize_transform(merging, TOKENIZER).tolist() == [[merged, 40, 41, 41]]

    class Stutterer(TinyTokenizer):
        def encode(self, text):
            return super().encode(text * 2)

    assert retokenize_transform(torch.tensor([[40, 41, 42]]), Stutterer()).tolist() == [
        [40, 41, 42]
    ]
    assert retokenize_transform(torch.empty(0, 3, dtype=torch.int64), TOKENIZER).shape == (0, 3)


@given(st.lists(st.lists(st.booleans(), max_size=4), max_size=5))
def test_first_round_with_survivors_is_the_last(rounds):
    asked = []

    def offer():
        for i, flags in enumerate(rounds):
            asked.append(i)
            yield torch.tensor([[i, int(flag)] for flag in flags]).reshape(-1, 2)

    winner = next((i for i, flags in enumerate(rounds) if any(flags)), None)
    if winner is None:
        with pytest.raises(RetokenizationError, match="use_retokenize=False"):
            take_surviving(offer(), lambda ids: ids[:, 1] == 1)
    else:
        kept = take_surviving(offer(), lambda ids: ids[:, 1] == 1)
        assert kept.tolist() == [[winner, 1]] * sum(rounds[winner])
        assert asked == list(range(winner + 1))
