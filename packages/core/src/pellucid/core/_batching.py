"""Work in batches that shrink when memory runs out, and cost nothing when it does not."""

from collections.abc import Callable
from typing import TypeVar

import torch

_Result = TypeVar("_Result")

_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def map_in_batches(
    compute: Callable[[slice], _Result], n_items: int, *, owner: object, size_attribute: str
) -> list[_Result]:
    """Apply a function to consecutive slices of `n_items` items.

    The batch size is read from `owner`'s attribute. When memory runs out it is halved, written back
    there, so that later calls start from what works, and the failed slice is tried again. Nothing
    is cleared or collected while all goes well.

    Args:
        compute: Takes a slice of the items, returns its result.
        n_items: The number of items.
        owner: The object that holds the batch size.
        size_attribute: The name of its attribute.

    Returns:
        The results in order, one for each slice.

    Raises:
        RuntimeError: What the backend raised, when not even one item fits.
    """
    results: list[_Result] = []
    start = 0
    while start < n_items:
        size = max(1, int(getattr(owner, size_attribute)))
        try:
            results.append(compute(slice(start, min(start + size, n_items))))
            start += size
            continue
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            setattr(owner, size_attribute, min(size, n_items) // 2 or 1)
        # Only now: the error's traceback kept the failed batch's tensors alive.
        _release_memory()
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a device's or the host's memory ran out."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        part in message for part in _MEMORY_MESSAGES
    )


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
