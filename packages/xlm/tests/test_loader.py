"""What a batch holds follows from its address, and a run goes on where it stopped."""

import copy
import itertools
import multiprocessing
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, CheckpointError
from pellucid.xlm.contracts import ResumableLoader
from pellucid.xlm.datamodule import BatchLoader, BatchPlan, BlockRows, ForwardRows, Table

# A process that starts workers by forking is told off for its own threads from Python 3.12 on.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SIZES = st.integers(min_value=1, max_value=40)


class NoisyCollator:
    """Returns row numbers, and noise from its generator."""

    generator = None

    def __call__(self, examples):
        rows = torch.tensor([example["input_ids"][0] for example in examples])
        return {"rows": rows, "noise": torch.rand(len(rows), generator=self.generator)}


def table(n_rows: int) -> Table:
    return Table.of({"input_ids": [[row] for row in range(n_rows)]})


def loader(n_rows: int = 23, *, num_workers: int = 0, cyclic: bool = False, **plan) -> BatchLoader:
    settings = {"batch_size": 4, "shuffle": True, "seed": 5, **plan}
    batch_plan = BatchPlan(n_rows=n_rows, **settings)
    return BatchLoader(
        table(n_rows), batch_plan, NoisyCollator(), num_workers=num_workers, cyclic=cyclic
    )


def read(batches) -> list[tuple[list[int], list[float]]]:
    return [(batch["rows"].tolist(), batch["noise"].tolist()) for batch in batches]


# ---- the plan ------------------------------------------------------------------------------------


@given(
    n_rows=SIZES,
    batch_size=st.integers(1, 7),
    world_size=st.integers(1, 4),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_in_evaluation_each_row_stands_once(n_rows, batch_size, world_size, shuffle, epoch) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        plan = BatchPlan(
            n_rows=n_rows,
            batch_size=batch_size,
            shuffle=shuffle,
            even=False,
            rank=rank,
            world_size=world_size,
        )
        for number in range(plan.n_batches()):
            batch = plan.batch(epoch, number).tolist()
            assert 0 < len(batch) <= batch_size
            seen += batch
        assert not len(plan.batch(epoch, plan.n_batches()))
    assert sorted(seen) == list(range(n_rows))


@given(
    n_rows=SIZES,
    batch_size=st.integers(1, 7),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_in_training_all_ranks_have_as_many_rows(n_rows, batch_size, world_size, drop_last) -> None:
    if drop_last and n_rows < batch_size * world_size:
        with pytest.raises(ArgumentError, match="do not fill one batch"):
            BatchPlan(n_rows=n_rows, batch_size=batch_size, world_size=world_size, drop_last=True)
        return
    plans = [
        BatchPlan(
            n_rows=n_rows,
            batch_size=batch_size,
            shuffle=True,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert len({plan.n_batches() for plan in plans}) == 1
    seen: list[int] = []
    for number in range(plans[0].n_batches()):
        shares = [plan.batch(1, number).tolist() for plan in plans]
        assert len({len(share) for share in shares}) == 1
        assert shares[0]
        seen += itertools.chain(*shares)
    if drop_last:
        assert len(seen) == len(set(seen)) == n_rows // plans[0].step_rows * plans[0].step_rows
    else:
        assert set(seen) == set(range(n_rows))
        assert len(seen) - n_rows < world_size


@given(n_rows=st.integers(8, 40), epoch=st.integers(0, 3), number=st.integers(0, 1))
def test_a_step_does_not_depend_on_how_many_ranks_share_it(n_rows, epoch, number) -> None:
    def step(world_size):
        shares = [
            BatchPlan(
                n_rows=n_rows,
                batch_size=4 // world_size,
                shuffle=True,
                rank=rank,
                world_size=world_size,
            ).batch(epoch, number)
            for rank in range(world_size)
        ]
        return np.concatenate(shares).tolist()

    assert step(1) == step(2) == step(4)


def test_epochs_are_permuted_in_their_own_ways() -> None:
    plan = BatchPlan(n_rows=50, batch_size=50, shuffle=True, seed=1)
    orders = [plan.batch(epoch, 0).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    other = BatchPlan(n_rows=50, batch_size=50, shuffle=True, seed=2)
    assert other.batch(0, 0).tolist() != orders[0]


# ---- the loader ----------------------------------------------------------------------------------


def test_it_is_what_the_harness_resumes() -> None:
    assert isinstance(loader(), ResumableLoader)


@given(
    n_rows=SIZES,
    stop=st.integers(0, 30),
    cyclic=st.booleans(),
    drop_last=st.booleans(),
)
def test_going_on_equals_never_having_stopped(n_rows, stop, cyclic, drop_last) -> None:
    drop_last = drop_last and n_rows >= 4
    whole = loader(n_rows, cyclic=cyclic, drop_last=drop_last)
    read_whole = read(itertools.islice(_passes(whole), 40))
    first = loader(n_rows, cyclic=cyclic, drop_last=drop_last)
    passes = _passes(first)
    begun = read(itertools.islice(passes, stop))
    second = loader(n_rows, cyclic=cyclic, drop_last=drop_last)
    second.load_state_dict(first.state_dict())
    assert begun + read(itertools.islice(_passes(second), 40 - stop)) == read_whole


def _passes(over: BatchLoader):
    while True:
        yield from over


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("cyclic", [False, True])
def test_workers_change_nothing(num_workers, cyclic) -> None:
    expected = read(itertools.islice(_passes(loader(cyclic=cyclic)), 9))
    ahead = loader(num_workers=num_workers, cyclic=cyclic)
    begun = read(itertools.islice(ahead, 3))
    # Workers are ahead of what was yielded; what was yielded is what counts.
    assert ahead.state_dict() == {"epoch": 0, "batch": 3}
    resumed = loader(num_workers=num_workers, cyclic=cyclic)
    resumed.load_state_dict(ahead.state_dict())
    assert begun + read(itertools.islice(_passes(resumed), 6)) == expected


def test_workers_that_stay_follow_the_epochs() -> None:
    expected = read(itertools.islice(_passes(loader()), 12))
    plan = BatchPlan(n_rows=23, batch_size=4, shuffle=True, seed=5)
    staying = BatchLoader(
        table(23), plan, NoisyCollator(), num_workers=1, persistent_workers=True, prefetch_factor=1
    )
    assert read(itertools.islice(_passes(staying), 12)) == expected


def test_workers_that_are_spawned_are_sent_everything(monkeypatch) -> None:
    from torch.utils.data import DataLoader

    expected = read(loader())
    spawned = loader(num_workers=1)
    held = spawned._loader
    assert isinstance(held, DataLoader)
    held.multiprocessing_context = multiprocessing.get_context("spawn")
    # A child finds this file where the tests of this package find each other.
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    assert read(spawned) == expected


def test_noise_differs_between_batches_epochs_and_ranks() -> None:
    drawn = []
    for rank in range(2):
        over = loader(16, batch_size=4, rank=rank, world_size=2)
        drawn += [tuple(noise) for _, noise in read(itertools.islice(_passes(over), 4))]
    assert len(set(drawn)) == 8


def test_nothing_of_the_callers_is_changed() -> None:
    collator = NoisyCollator()
    collator.generator = mine = torch.Generator().manual_seed(3)
    before, state = mine.get_state(), torch.get_rng_state()
    numpy_state = copy.deepcopy(np.random.get_state())
    plan = BatchPlan(n_rows=8, batch_size=4, shuffle=True)
    for num_workers in (0, 1):
        over = BatchLoader(table(8), plan, collator, num_workers=num_workers)
        first, second = read(over), read(over)
        assert first != second
    assert collator.generator is mine
    assert torch.equal(mine.get_state(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == str(numpy_state)


def test_a_pass_that_is_left_is_over() -> None:
    over = loader()
    epochs = [read(itertools.islice(over, 2)) for _ in range(2)]
    fresh = loader()
    fresh.set_epoch(1)
    assert epochs[1] == read(itertools.islice(fresh, 2))
    over.set_epoch(0)
    assert read(itertools.islice(over, 2)) == epochs[0]


def test_the_epoch_that_is_set_keeps_its_position() -> None:
    over = loader()
    over.load_state_dict({"epoch": 2, "batch": 3})
    over.set_epoch(2)
    assert over.state_dict() == {"epoch": 2, "batch": 3}
    assert len(read(over)) == len(over) - 3
    assert over.state_dict() == {"epoch": 3, "batch": 0}


def test_evaluation_sees_the_same_each_time() -> None:
    plan = BatchPlan(n_rows=10, batch_size=4, even=False)
    over = BatchLoader(table(10), plan, NoisyCollator(), fixed_epoch=True)
    first = read(over)
    assert read(over) == first
    assert [rows for rows, _ in first] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_lengths_are_those_of_a_pass() -> None:
    assert len(loader(23)) == 6 == len(read(loader(23)))
    assert len(loader(23, drop_last=True)) == 5 == len(read(loader(23, drop_last=True)))
    with pytest.raises(TypeError, match="rows do not end"):
        len(loader(cyclic=True))


@pytest.mark.parametrize(
    "state", [{"epoch": 0}, {"epoch": 0, "batch": 99}, {"epoch": -1, "batch": 0}, {"batch": "x"}]
)
def test_a_position_that_cannot_be_is_refused(state) -> None:
    with pytest.raises(CheckpointError, match="position"):
        loader().load_state_dict(state)


def test_the_harness_counts_batches_of_one_long_pass() -> None:
    """A cyclic pass is one epoch to a trainer, however often the rows come again."""
    over = loader(cyclic=True)
    expected = read(itertools.islice(loader(cyclic=True), 20))[14:]
    over.load_state_dict({"epoch": 0, "batch": 14})
    assert read(itertools.islice(over, 6)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        loader(**settings)


def test_no_rows_and_no_end_are_told_apart() -> None:
    with pytest.raises(ArgumentError, match="has no rows"):
        loader(0)
    with pytest.raises(ArgumentError, match="rows without end cannot be permuted"):
        BatchPlan(n_rows=None, batch_size=2, shuffle=True)


# ---- rows without number -------------------------------------------------------------------------


def endless(n_rows: int | None = None, **settings) -> ForwardRows:
    return ForwardRows(Counting(n_rows), **settings)


class Counting:
    def __init__(self, n_rows: int | None) -> None:
        self.n_rows = n_rows
        self.opened = 0

    def __call__(self):
        self.opened += 1
        numbers = itertools.count() if self.n_rows is None else range(self.n_rows)
        return ({"input_ids": [number]} for number in numbers)


def stream_loader(source, *, num_workers: int = 0, **settings) -> BatchLoader:
    plan = BatchPlan(n_rows=None, batch_size=4, seed=5, **settings)
    return BatchLoader(source, plan, NoisyCollator(), num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("buffer", [1, 3, 8])
def test_a_stream_goes_on_too(num_workers, buffer) -> None:
    def open_stream():
        return endless(shuffle_buffer_size=buffer, seed=1)

    expected = read(itertools.islice(stream_loader(open_stream()), 9))
    assert sorted(itertools.chain(*(rows for rows, _ in expected)))[:24] == list(range(24))
    first = stream_loader(open_stream(), num_workers=num_workers)
    begun = read(itertools.islice(first, 4))
    second = stream_loader(open_stream(), num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    assert begun + read(itertools.islice(second, 5)) == expected


def test_a_buffer_is_permuted_and_no_more() -> None:
    rows = endless(40, shuffle_buffer_size=8, seed=1).rows(range(50))
    numbers = [row["input_ids"][0] for row in rows]
    assert sorted(numbers) == list(range(40))
    assert numbers != sorted(numbers)
    assert all(number // 8 == place // 8 for place, number in enumerate(numbers))
    assert endless(40, shuffle_buffer_size=8, seed=2).rows(range(50)) != rows
    with pytest.raises(ArgumentError, match="shuffle_buffer_size is 0"):
        endless(shuffle_buffer_size=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_that_ends_is_read_again_in_the_next_pass(num_workers) -> None:
    over = stream_loader(endless(10), num_workers=num_workers)
    passes = [[rows for rows, _ in read(over)] for _ in range(2)]
    assert passes[0] == passes[1] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    dropping = stream_loader(endless(10), num_workers=num_workers, drop_last=True)
    assert len(read(dropping)) == 2


def test_reading_forward_reads_each_row_once() -> None:
    source = Counting(None)
    over = stream_loader(ForwardRows(source, shuffle_buffer_size=3))
    read(itertools.islice(over, 10))
    assert source.opened == 1


def test_ranks_of_a_stream_end_together() -> None:
    shares = [
        [rows for rows, _ in read(stream_loader(endless(21), rank=rank, world_size=2))]
        for rank in range(2)
    ]
    assert [len(share) for share in shares] == [2, 2]
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(16))


def test_blocks_are_made_from_their_number() -> None:
    made = []

    def make(number):
        made.append(number)
        return Table.of({"input_ids": [[number * 10 + row] for row in range(10)]})

    rows = BlockRows(make, block_rows=10)
    assert [row["input_ids"][0] for row in rows.rows(range(7, 24))] == list(range(7, 24))
    assert made == [0, 1, 2]
    rows.rows([29])
    assert made == [0, 1, 2]
    over = stream_loader(BlockRows(make, block_rows=10))
    over.load_state_dict({"epoch": 0, "batch": 1_000})
    assert read(itertools.islice(over, 1))[0][0] == [4000, 4001, 4002, 4003]
