"""What requests cost: the ceiling that is kept, and the account that is given."""

import asyncio
import dataclasses
from collections.abc import Generator
from contextlib import contextmanager

from pellucid.api._errors import SpendingLimitError
from pellucid.core import ArgumentError, BudgetError

_CHARS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


@dataclasses.dataclass(kw_only=True)
class RequestStats:
    """What a model's requests came to since the last reset.

    Attributes:
        requests: Requests sent, those tried again included.
        retries: How many of them were tried again.
        failed_samples: Samples that were given up.
        cached_samples: Samples answered without a request.
        prompt_tokens: Tokens sent, as the provider counts them.
        completion_tokens: Tokens generated, as the provider counts them.
        estimated_tokens: How many of both are this package's estimates, for want of the provider's
            own numbers.
        usd: What it cost; None when a price is not known.
    """

    requests: int = 0
    retries: int = 0
    failed_samples: int = 0
    cached_samples: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    usd: float | None = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a request costs, or may cost.

    Attributes:
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens generated.
        is_estimated: Whether these are not the provider's numbers.
        usd: The price, None when it is not known.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    is_estimated: bool = False
    usd: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens sent and generated."""
        return self.prompt_tokens + self.completion_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What tokens cost.

    Attributes:
        prompt_usd: US dollars for a million tokens sent.
        completion_usd: US dollars for a million tokens generated.
    """

    prompt_usd: float
    completion_usd: float

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of tokens in US dollars."""
        total = prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd
        return total / 1_000_000


class Spending:
    """A ceiling on tokens and money that holds while requests run side by side.

    A request sets aside what it may cost at most, and waits while those under way might use the
    rest up. It is refused when, with none under way, there is not enough left.

    Args:
        limit_tokens: The ceiling in tokens, None for none.
        limit_usd: The ceiling in US dollars, None for none.

    Raises:
        BudgetError: (a ValueError) If a ceiling is not positive.
    """

    def __init__(self, limit_tokens: int | None, limit_usd: float | None) -> None:
        for name, limit in (("budget_tokens", limit_tokens), ("budget_usd", limit_usd)):
            if limit is not None and not limit > 0:
                raise BudgetError(f"{name} must be positive, got {limit!r}. None sets no ceiling.")
        self.limit_tokens = limit_tokens
        self.limit_usd = limit_usd
        self.spent_tokens = 0
        self.spent_usd = 0.0
        self._reserved_tokens = 0
        self._reserved_usd = 0.0
        self._n_under_way = 0
        self._settled: asyncio.Event | None = None

    async def set_aside(self, cost: Cost) -> None:
        """Wait until a request that may cost so much can be sent.

        Raises:
            SpendingLimitError: If it cannot.
        """
        while not self._fits(cost):
            if self._n_under_way == 0:
                raise SpendingLimitError(self._describe(cost))
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()
        self._n_under_way += 1
        self._reserved_tokens += cost.tokens
        self._reserved_usd += cost.usd or 0.0

    @contextmanager
    def release(self, cost: Cost) -> Generator[None]:
        """Give back what was set aside when the block is left; `book` inside it."""
        try:
            yield
        finally:
            self._n_under_way -= 1
            self._reserved_tokens -= cost.tokens
            self._reserved_usd -= cost.usd or 0.0
            if self._settled is not None:
                self._settled.set()
                self._settled = None

    def book(self, cost: Cost) -> None:
        """Add what a request did cost."""
        self.spent_tokens += cost.tokens
        self.spent_usd += cost.usd or 0.0

    def _fits(self, cost: Cost) -> bool:
        tokens = self.spent_tokens + self._reserved_tokens + cost.tokens
        usd = self.spent_usd + self._reserved_usd + (cost.usd or 0.0)
        return (self.limit_tokens is None or tokens <= self.limit_tokens) and (
            self.limit_usd is None or usd <= self.limit_usd
        )

    def _describe(self, cost: Cost) -> str:
        if self.limit_tokens is not None and self.spent_tokens + cost.tokens > self.limit_tokens:
            return (
                f"the budget of {self.limit_tokens} tokens does not allow a request of up to "
                f"{cost.tokens}: {self.spent_tokens} are spent. Raise budget_tokens."
            )
        return (
            f"the budget of {self.limit_usd} USD does not allow a request of up to "
            f"{cost.usd or 0:.6f}: {self.spent_usd:.6f} are spent. Raise budget_usd."
        )


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has: four bytes each, one at the least."""
    return max(1, -(-len(text.encode("utf-8", "replace")) // _CHARS_PER_TOKEN))


def estimate_chat_tokens(messages: list[dict[str, str]]) -> int:
    """Return about how many tokens a conversation has, its frame included."""
    return sum(estimate_tokens(m["content"]) + _TOKENS_PER_MESSAGE for m in messages)


def make_prices(usd_per_million_tokens: tuple[float, float] | float | None) -> Prices | None:
    """Return prices from what a constructor was given: one number, or one for each direction.

    Raises:
        ArgumentError: (a ValueError) If a price is negative or not a number.
    """
    if usd_per_million_tokens is None:
        return None
    given = usd_per_million_tokens
    pair = given if isinstance(given, tuple) else (given, given)
    if len(pair) != 2 or not all(isinstance(p, (int, float)) and p >= 0 for p in pair):
        raise ArgumentError(
            f"usd_per_million_tokens must be a price or a pair of prices, for tokens sent and "
            f"generated, got {given!r}."
        )
    return Prices(prompt_usd=float(pair[0]), completion_usd=float(pair[1]))
