"""Sends the requests of a batch: side by side, in order, each to exactly one outcome."""

import asyncio
import dataclasses
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pellucid.api._errors import (
    AuthenticationError,
    RequestError,
    ResponseError,
    SpendingLimitError,
)
from pellucid.api._failures import Failure, classify
from pellucid.api._loop import LoopLocal
from pellucid.api._policy import RetryPolicy
from pellucid.api._rate_limits import Gate, now
from pellucid.api._secrets import Scrubber
from pellucid.api._spending import Cost, RequestStats, Spending

_LOG = logging.getLogger("pellucid.api")

_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What an adapter makes of a response.

    Attributes:
        answers: One for each sample of the request, of what JSON can hold.
        cost: What it cost, as far as the provider says.
        headers: Those of the response, where the client shows them.
    """

    answers: list[Any]
    cost: Cost
    headers: Mapping[str, str] | None = None


class DivisibleError(RequestError):
    """A request of several samples failed where parts of it may succeed."""


Outcome = Reply | RequestError


class Transport:
    """The one way out: concurrency, timeouts, retries, rate limits, budget, statistics.

    Args:
        policy: When to try again.
        max_concurrent_requests: How many requests are under way at once, over all batches.
        timeout_s: How long an attempt may take as a whole, in seconds.
        spending: The budget.
        scrubber: Takes keys out of what providers say.
        provider: What errors call the other side.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        max_concurrent_requests: int,
        timeout_s: float,
        spending: Spending,
        scrubber: Scrubber,
        provider: str,
    ) -> None:
        self.policy = policy
        self.max_concurrent_requests = max_concurrent_requests
        self.timeout_s = timeout_s
        self.spending = spending
        self.stats = RequestStats()
        self._scrubber = scrubber
        self._provider = provider
        self._gate = Gate(policy.longest_wait_s)
        # Not the caller's generator, nor one that anybody could seed.
        self._chance = random.SystemRandom()
        self._slots: LoopLocal[asyncio.Semaphore] = LoopLocal()

    async def run(
        self,
        items: Sequence[_Item],
        send: Callable[[_Item], Awaitable[Reply]],
        estimate: Callable[[_Item], Cost],
    ) -> list[Outcome]:
        """Send a request for each item.

        Args:
            items: What the requests are made from.
            send: Makes one attempt, and raises whatever its client raises.
            estimate: Says what a request may cost at most.

        Returns:
            For each item, in order, what came back or the error it ended in.
        """
        batch = _Batch(self, items, send, estimate)
        n_workers = min(self.max_concurrent_requests, len(items))
        async with asyncio.TaskGroup() as group:
            for _ in range(n_workers):
                group.create_task(batch.work())
        return batch.outcomes

    async def attempt(
        self, item: _Item, send: Callable[[_Item], Awaitable[Reply]], cost: Cost
    ) -> Reply | Failure:
        """Make one attempt within the limits of all.

        Raises:
            SpendingLimitError: If the budget does not allow it.
        """
        async with self._slots.get(self._make_slots):
            await self._gate.pass_through()
            await self.spending.set_aside(cost)
            with self.spending.release(cost):
                self.stats.requests += 1
                try:
                    async with asyncio.timeout(self.timeout_s):
                        reply = await send(item)
                except Exception as error:
                    return classify(error)
                self.spending.book(reply.cost)
        self._gate.answer(reply.headers)
        return reply

    def _make_slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self.max_concurrent_requests)

    def clean(self, text: str) -> str:
        """Return a text without keys."""
        return self._scrubber.clean(text)

    def delay_s(self, failure: Failure, n_attempts: int) -> float | None:
        """Return how long to wait before the next attempt, None if there shall be none."""
        asked = failure.asked_wait_s
        wait_s = self.policy.delay_s(n_attempts, asked, self._chance)
        if failure.status in (429, 503, 529):
            self._gate.refuse(wait_s)
        if not failure.is_transient or n_attempts >= self.policy.max_attempts:
            return None
        if asked is not None and asked > self.policy.longest_wait_s:
            return None
        self.stats.retries += 1
        message = self._scrubber.clean(failure.message)
        _LOG.info("attempt %d failed (%s), the next in %.2f s", n_attempts, message, wait_s)
        return wait_s

    def make_error(self, failure: Failure, n_attempts: int) -> RequestError:
        """Return the error that a request ends in."""
        status = "" if failure.status is None else f" with status {failure.status}"
        tried = "" if n_attempts == 1 else f" after {n_attempts} attempts"
        message = self._scrubber.clean(failure.message)
        kind: type[RequestError] = RequestError
        advice = ""
        if failure.is_unauthorized:
            kind, advice = AuthenticationError, " Check api_key."
        elif failure.is_divisible:
            kind = DivisibleError
        elif failure.is_malformed:
            kind = ResponseError
        elif failure.asked_wait_s is not None and failure.asked_wait_s > self.policy.longest_wait_s:
            advice = f" It asks to wait {failure.asked_wait_s:.0f} s, longer than longest_wait_s."
        elif failure.is_transient and failure.status is None:
            advice = " Check that a server answers there, and that timeout_s is long enough."
        return kind(
            f"the request to {self._provider} failed{status}{tried}: {message}{advice}",
            status=failure.status,
            n_attempts=n_attempts,
            is_transient=failure.is_transient,
        )


class _Batch(Generic[_Item]):
    """The state of one batch, which its workers share.

    What is due to be tried again goes before what was never sent. A worker that waits for a retry
    holds no slot.
    """

    def __init__(
        self,
        transport: Transport,
        items: Sequence[_Item],
        send: Callable[[_Item], Awaitable[Reply]],
        estimate: Callable[[_Item], Cost],
    ) -> None:
        self._transport = transport
        self._items = items
        self._send = send
        self._estimate = estimate
        self._unsent = iter(range(len(items)))
        self._retries: list[tuple[float, int, int]] = []
        self._denied: AuthenticationError | None = None
        self._outcomes: list[Outcome | None] = [None] * len(items)

    @property
    def outcomes(self) -> list[Outcome]:
        """What each item came to, once all workers are done."""
        found = [outcome for outcome in self._outcomes if outcome is not None]
        if len(found) != len(self._items):
            raise RuntimeError(f"{len(found)} outcomes for {len(self._items)} requests.")
        return found

    async def work(self) -> None:
        """Take one item after the other until none is left."""
        while (turn := await self._take()) is not None:
            index, n_failed = turn
            await self._advance(index, n_failed + 1)

    async def _take(self) -> tuple[int, int] | None:
        while True:
            if self._retries and self._retries[0][0] <= now():
                _, index, n_failed = heapq.heappop(self._retries)
                return index, n_failed
            index = next(self._unsent, None)
            if index is not None:
                return index, 0
            if not self._retries:
                return None
            await asyncio.sleep(max(0.0, self._retries[0][0] - now()))

    async def _advance(self, index: int, n_attempts: int) -> None:
        if self._denied is not None:
            self._outcomes[index] = self._denied
            return
        item = self._items[index]
        try:
            outcome = await self._transport.attempt(item, self._send, self._estimate(item))
        except SpendingLimitError as error:
            self._outcomes[index] = error
            return
        if isinstance(outcome, Reply):
            self._outcomes[index] = outcome
            return
        delay_s = self._transport.delay_s(outcome, n_attempts)
        if delay_s is not None:
            heapq.heappush(self._retries, (now() + delay_s, index, n_attempts))
            return
        error = self._transport.make_error(outcome, n_attempts)
        self._outcomes[index] = error
        if isinstance(error, AuthenticationError):
            # The key is the same for all: what is left would fail alike.
            self._denied = error
