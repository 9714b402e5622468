import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import _batching, is_out_of_memory, map_in_batches


class Device:
    """Runs out of memory on batches above a capacity, as a GPU does."""

    def __init__(self, size, capacity=10**9):
        self.size = size
        self.capacity = capacity
        self.tried = []

    def compute(self, rows):
        n = rows.stop - rows.start
        self.tried.append(n)
        if n > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return list(range(rows.start, rows.stop))

    def map(self, n_items):
        return map_in_batches(self.compute, n_items, owner=self, size_attribute="size")


@given(st.integers(0, 60), st.integers(1, 70), st.integers(1, 70))
def test_every_item_is_computed_once_in_order_and_within_capacity(n_items, size, capacity):
    device = Device(size, capacity)
    parts = device.map(n_items)
    assert [item for part in parts for item in part] == list(range(n_items))
    assert all(0 < len(part) <= min(size, capacity) for part in parts)
    # A batch as large as one that failed before is tried after 16 smaller ones at the earliest.
    failed = [i for i, n in enumerate(device.tried) if n > capacity]
    for i, j in itertools.combinations(failed, 2):
        assert device.tried[j] < device.tried[i] or j - i > 16


def test_a_size_that_works_is_kept_for_later_calls():
    device = Device(size=16, capacity=5)
    device.map(16)
    assert device.size == 4
    device.tried.clear()
    device.map(8)
    assert device.tried == [4, 4]


def test_a_size_that_works_is_not_changed():
    device = Device(size=16)
    device.map(40)
    assert device.tried == [16, 16, 8]
    assert device.size == 16


def test_a_reduced_size_grows_back_after_sixteen_clean_batches():
    device = Device(size=16, capacity=5)
    device.map(16)
    device.capacity = 100
    device.tried.clear()
    device.map(4 * 12)
    # Four before the capacity grew, twelve since.
    assert (set(device.tried), device.size) == ({4}, 8)
    device.map(8 * 16)
    assert device.size == 16
    device.tried.clear()
    device.map(16 * 40)
    assert set(device.tried) == {16}


def test_each_trial_that_fails_doubles_the_wait_for_the_next():
    device = Device(size=8, capacity=5)
    device.map(4 * (16 + 32 + 64 + 2))
    trials = [i for i, n in enumerate(device.tried) if n == 8]
    assert [j - i - 1 for i, j in itertools.pairwise(trials)] == [16, 32, 64]


def test_batches_smaller_than_the_size_say_nothing_about_it():
    device = Device(size=16, capacity=5)
    device.map(8)
    for _ in range(40):
        device.map(3)
    assert device.size == 4


def test_a_size_set_by_hand_is_not_touched():
    device = Device(size=16, capacity=5)
    device.map(16)
    device.size, device.capacity = 2, 100
    device.map(200)
    assert device.size == 2


def test_a_preferred_size_is_used_as_far_as_memory_allows():
    device = Device(size=6, capacity=3)
    left = []

    def prefer(n_left):
        left.append(n_left)
        return 2 if n_left > 5 else 100

    map_in_batches(device.compute, 9, owner=device, size_attribute="size", prefer_size=prefer)
    assert device.tried == [2, 2, 5, 2, 2, 1]
    assert left == [9, 7, 5, 5, 3, 1]


def test_a_single_item_that_does_not_fit_is_an_error():
    device = Device(size=8, capacity=0)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        device.map(3)
    assert device.tried == [3, 1]


def test_a_batch_size_below_one_counts_as_one():
    assert Device(size=0).map(2) == [[0], [1]]


def test_other_errors_are_passed_on_at_once():
    def fail(rows):
        raise RuntimeError("shape mismatch")

    device = Device(size=8)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        map_in_batches(fail, 4, owner=device, size_attribute="size")
    assert device.size == 8


def test_memory_held_by_the_failed_batch_is_free_when_the_cache_is_emptied(monkeypatch):
    class Buffer:
        alive = 0

        def __init__(self):
            Buffer.alive += 1

        def __del__(self):
            Buffer.alive -= 1

    def compute(rows):
        buffer = Buffer()
        if rows.stop - rows.start > 1:
            raise torch.OutOfMemoryError("out of memory")
        return buffer.alive

    emptied = []
    monkeypatch.setattr(_batching, "_release_memory", lambda: emptied.append(Buffer.alive))
    map_in_batches(compute, 4, owner=Device(size=4), size_attribute="size")
    assert emptied == [0, 0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shape"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
