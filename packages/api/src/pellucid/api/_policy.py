"""How often a request is tried again, and how long to wait before that."""

import dataclasses
import random

from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to try again what can succeed again: timeouts, 429, 5xx, dropped connections.

    The wait doubles from one attempt to the next and is drawn from its upper half, so that clients
    which failed together do not come back together. What a server asks for in its headers goes
    before that.

    Attributes:
        max_attempts: How often a request is sent at most.
        first_delay_s: The longest wait before the second attempt, in seconds.
        longest_delay_s: Where the doubling ends, in seconds.
        longest_wait_s: A request for which the server asks for a longer wait than this many seconds
            is given up.

    Raises:
        ArgumentError: (a ValueError) If a number is out of its range.
    """

    max_attempts: int = 6
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    longest_wait_s: float = 120.0

    def __post_init__(self) -> None:
        check_at_least("max_attempts", self.max_attempts, 1)
        for name in ("first_delay_s", "longest_delay_s", "longest_wait_s"):
            check_at_least(name, getattr(self, name), 0)

    def delay_s(self, n_attempts: int, asked_s: float | None, chance: random.Random) -> float:
        """Return how long to wait after so many attempts, in seconds.

        Args:
            n_attempts: How often the request was sent, at least once.
            asked_s: What the server asked for, if it did; it is never undercut.
            chance: Where the jitter comes from.
        """
        if asked_s is not None:
            return asked_s * (1 + 0.05 * chance.random())
        ceiling = min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(n_attempts - 1, 30))
        return ceiling * (0.5 + 0.5 * chance.random())


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuse a number that is too small, or none.

    Raises:
        ArgumentError: (a ValueError) If it is.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise ArgumentError(f"{name} must be at least {least}, got {value!r}.")
