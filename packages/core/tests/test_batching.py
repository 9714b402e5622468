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
    # No batch is tried that is at least as large as one that failed before.
    failed = [n for n in device.tried if n > capacity]
    assert failed == sorted(set(failed), reverse=True)


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
