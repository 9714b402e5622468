"""How many candidates to compute at a time, where nothing but speed decides.

On a CPU, a batch whose activations stay in the cache takes less time a token than a large one, and
short batches share more of their beginnings. Which size is best depends on machine and model, so a
few are timed in the first calls.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import nn

_SIZES = (16, 32, 64, 128)
_ROUNDS = 2
# A size that is slower by less than this is preferred if it is smaller.
_TOLERANCE = 1.03
# So small a model, or so few candidates, are not worth the timing, and stay the same in every run.
_MIN_WEIGHTS = 2_000_000
_MAX_UNTIMED = 64
_UNTIMED = 32


class Pace:
    """Times a few batch sizes in turn, then keeps to the one that took the least time a token.

    Args:
        sizes: The batch sizes; a single one is kept to from the beginning.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, sizes: Sequence[int] = _SIZES, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._seconds: dict[int, list[float]] = {size: [] for size in sizes}

    def prefer_size(self, n_left: int) -> int:
        """Return how many of the items left to compute next."""
        held = {size: times for size, times in self._seconds.items() if size <= n_left}
        due = [size for size, times in held.items() if len(times) < _ROUNDS]
        if due:
            return min(due, key=lambda size: (len(held[size]), size))
        best = {size: min(times) for size, times in self._seconds.items() if times}
        if not best:
            return n_left
        limit = _TOLERANCE * min(best.values())
        return min(size for size, seconds in best.items() if seconds <= limit)

    def time(
        self, compute: Callable[[slice], Any], count_tokens: Callable[[], int]
    ) -> Callable[[slice], Any]:
        """Return a function of slices that does the same, and takes a note of how long it took.

        Args:
            compute: Takes a slice of the items.
            count_tokens: Says how many tokens the model has processed so far.
        """

        def timed(rows: slice) -> Any:
            times = self._seconds.get(rows.stop - rows.start)
            if times is None or len(times) >= _ROUNDS:
                return compute(rows)
            n_before, began = count_tokens(), self._clock()
            result = compute(rows)
            times.append((self._clock() - began) / max(count_tokens() - n_before, 1))
            return result

        return timed


class Paces:
    """The pace of each kind of computation that one model is asked for.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        n_weights = sum(weight.numel() for weight in model.parameters())
        self._is_timed = n_weights >= _MIN_WEIGHTS
        self._held: dict[Hashable, Pace] = {}

    def find(self, kind: Hashable, n_candidates: int) -> Pace:
        """Return the pace of a kind of computation.

        Args:
            kind: What tells it from others.
            n_candidates: How many candidates there are to compute.
        """
        if not self._is_timed or n_candidates <= _MAX_UNTIMED:
            return Pace([_UNTIMED])
        return self._held.setdefault(kind, Pace())
