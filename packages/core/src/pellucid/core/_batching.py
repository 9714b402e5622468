"""Work in batches that shrink when memory runs out, and cost nothing when it does not."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")

_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_PATIENCE = 16


def map_in_batches(
    compute: Callable[[slice], _Result],
    n_items: int,
    *,
    owner: object,
    size_attribute: str,
    prefer_size: Callable[[int], int] | None = None,
) -> list[_Result]:
    """Apply a function to consecutive slices of `n_items` items.

    The largest batch size is read from `owner`'s attribute. When memory runs out it is halved,
    written back there, so that later calls start from what works, and the failed slice is tried
    again. After 16 batches without failure twice as much is tried, up to what it was; each time
    that fails, the wait until the next trial doubles. Whoever sets the attribute anew starts
    afresh. Nothing is cleared or collected while all goes well.

    Args:
        compute: Takes a slice of the items, returns its result.
        n_items: The number of items.
        owner: The object that holds the batch size, and takes a note of what it was reduced from.
        size_attribute: The name of its attribute.
        prefer_size: Is told how many items are left, and says how many of them should go next; the
            batch size still is the most that can.

    Returns:
        The results in order, one for each slice.

    Raises:
        RuntimeError: What the backend raised, when not even one item fits.
    """
    limit = _Limit(owner, size_attribute)
    results: list[_Result] = []
    start = 0
    while start < n_items:
        size = min(limit.size, n_items - start)
        if prefer_size is not None:
            size = max(1, min(size, prefer_size(n_items - start)))
        try:
            results.append(compute(slice(start, start + size)))
            start += size
            limit.note_success(size)
            continue
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            limit.note_failure(size)
        # Only now: the error's traceback kept the failed batch's tensors alive.
        _release_memory()
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a device's or the host's memory ran out."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        part in message for part in _MEMORY_MESSAGES
    )


class _Reduction:
    """What a batch size was before memory ran out, and how long until more is tried again."""

    def __init__(self, wanted: int, size: int) -> None:
        self.wanted = wanted
        self.size = size
        self.patience = _PATIENCE
        self.n_clean = 0
        self.is_trial = False


class _Limit:
    """The batch size in an attribute; its reduction, if there is one, lies beside it."""

    def __init__(self, owner: Any, attribute: str) -> None:
        self._owner = owner
        self._attribute = attribute

    @property
    def size(self) -> int:
        return max(1, int(getattr(self._owner, self._attribute)))

    def note_success(self, size: int) -> None:
        """Try more again after many batches that were as large as they may be."""
        reduction = self._reduction
        if reduction is None or size < reduction.size or reduction.size >= reduction.wanted:
            return
        reduction.is_trial = False
        reduction.n_clean += 1
        if reduction.n_clean >= reduction.patience:
            self._set(reduction, min(2 * reduction.size, reduction.wanted))
            reduction.is_trial = True

    def note_failure(self, size: int) -> None:
        """Halve, and wait twice as long as before if this has happened before."""
        reduction = self._reduction
        if reduction is None:
            reduction = _Reduction(self.size, self.size)
            vars(self._owner)[self._note] = reduction
        elif reduction.is_trial:
            reduction.patience *= 2
        self._set(reduction, size // 2)
        reduction.is_trial = False

    @property
    def _note(self) -> str:
        return f"{self._attribute}_reduction"

    @property
    def _reduction(self) -> _Reduction | None:
        held = vars(self._owner).get(self._note)
        return held if isinstance(held, _Reduction) and held.size == self.size else None

    def _set(self, reduction: _Reduction, size: int) -> None:
        reduction.size, reduction.n_clean = size, 0
        setattr(self._owner, self._attribute, size)


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
