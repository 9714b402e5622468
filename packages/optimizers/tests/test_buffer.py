import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import StepRandom, TriggerBuffer
from pellucid.optimizers._buffer import BufferedState, hold_buffer

# Few triggers and few losses, so that equal ones meet.
entries = st.tuples(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from([0.0, 1.0, 2.0, 3.0])
)
some = st.lists(entries, min_size=1, max_size=8)


def buffer_of(rows):
    ids, losses = zip(*rows, strict=True)
    return TriggerBuffer(torch.tensor(ids), torch.tensor(losses))


def rows_of(buffer):
    triggers = [tuple(row) for row in buffer.triggers.tolist()]
    return list(zip(triggers, buffer.losses.tolist(), strict=True))


def merge_naively(rows, size):
    best = {}
    for ids, loss in sorted(rows, key=lambda row: row[1]):
        best.setdefault(ids, loss)
    return list(best.items())[:size]


@given(some)
def test_triggers_are_distinct_and_the_best_comes_first(rows):
    buffer = buffer_of(rows)
    assert rows_of(buffer) == merge_naively(rows, 99)
    assert buffer.size == len({ids for ids, _ in rows})
    assert buffer.get_lowest_loss() == min(loss for _, loss in rows)
    assert buffer.get_highest_loss() == buffer.losses.max()


@given(some, some, st.none() | st.integers(1, 9))
def test_merge_keeps_the_best_and_equals_adding_one_after_the_other(held, others, size):
    buffer = buffer_of(held)
    ids, losses = zip(*others, strict=True)
    merged = buffer.merge(torch.tensor(ids), torch.tensor(losses), size=size)
    assert rows_of(merged) == merge_naively(held + others, buffer.size if size is None else size)
    if size is None:
        for row, loss in others:
            buffer = buffer.add_if_better(torch.tensor(row), loss)
        assert rows_of(buffer) == rows_of(merged)


@given(some, entries)
def test_nothing_is_changed_in_place(held, entry):
    buffer = buffer_of(held)
    before = rows_of(buffer)
    added = buffer.add(torch.tensor(entry[0]), entry[1])
    assert rows_of(buffer) == before
    assert added.size == buffer.size + (entry[0] not in dict(before))
    assert rows_of(added) == merge_naively([*held, entry], 99)


def test_only_a_strictly_better_trigger_takes_the_worst_ones_place():
    buffer = buffer_of([((1, 1), 1.0), ((2, 2), 2.0)])
    assert rows_of(buffer.add_if_better(torch.tensor([3, 3]), 2.0)) == rows_of(buffer)
    better = buffer.add_if_better(torch.tensor([3, 3]), 0.5)
    assert rows_of(better) == [((3, 3), 0.5), ((1, 1), 1.0)]


def test_best_of_several_is_drawn_from_all_of_them():
    buffer = buffer_of([((i, i), float(i)) for i in range(5)])
    assert buffer.get_best_trigger().tolist() == [0, 0]
    generator = StepRandom(0, 1).generator("x")
    drawn = [int(buffer.get_best_trigger(3, generator=generator)[0]) for _ in range(60)]
    assert set(drawn) == {0, 1, 2}
    drawn = [int(buffer.get_best_trigger(9, generator=generator)[0]) for _ in range(90)]
    assert set(drawn) == {0, 1, 2, 3, 4}


def test_nan_is_the_worst():
    buffer = buffer_of([((1, 1), math.nan), ((2, 2), 5.0)])
    assert rows_of(buffer) == [((2, 2), 5.0), ((1, 1), math.inf)]


def test_senseless_arguments_are_refused():
    with pytest.raises(ValueError, match="0 triggers and 0 losses"):
        TriggerBuffer(torch.empty(0, 2, dtype=torch.int64), torch.empty(0))
    with pytest.raises(ValueError, match="1 triggers and 2 losses"):
        TriggerBuffer(torch.tensor([[1]]), torch.zeros(2))
    buffer = buffer_of([((1, 1), 1.0)])
    with pytest.raises(ValueError, match="top_k must be 1, or more with a generator, got 2"):
        buffer.get_best_trigger(2)
    with pytest.raises(ValueError, match="got 0"):
        buffer.get_best_trigger(0)


def test_a_state_moves_to_the_best_of_its_buffer():
    trigger = torch.tensor([1, 1])
    state = BufferedState(
        trigger_ids=trigger, loss=2.0, buffer_ids=trigger[None], buffer_losses=torch.tensor([2.0])
    )
    candidates, losses = torch.tensor([[2, 2], [3, 3]]), torch.tensor([4.0, 3.0])
    worse = hold_buffer(state, state.buffer.merge(candidates, losses, size=2))
    assert (worse.trigger_ids.tolist(), worse.loss) == ([1, 1], 2.0)
    assert worse.buffer_ids.tolist() == [[1, 1], [3, 3]]
    buffer = worse.buffer.merge(torch.tensor([[4, 4]]), torch.tensor([1.0]), size=2)
    better = hold_buffer(worse, buffer)
    assert (better.trigger_ids.tolist(), better.loss) == ([4, 4], 1.0)
    assert better.buffer_losses.tolist() == [1.0, 2.0]
    assert (state.trigger_ids.tolist(), state.buffer_losses.tolist()) == ([1, 1], [2.0])
