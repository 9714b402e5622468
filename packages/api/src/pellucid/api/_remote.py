"""What all models behind a provider share: cache, transport, statistics, strictness."""

import dataclasses
import os
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pellucid.api._cache import ResponseCache, request_key
from pellucid.api._errors import AuthenticationError, BatchError, CacheError, RequestError
from pellucid.api._failures import describe
from pellucid.api._loop import LoopLocal, run
from pellucid.api._policy import RetryPolicy, check_at_least
from pellucid.api._secrets import Scrubber, Secret, public_url
from pellucid.api._spending import Cost, Prices, RequestStats, Spending, make_prices
from pellucid.api._transport import DivisibleError, Reply, Transport
from pellucid.core import (
    BaseModel,
    LossTextAccessMixin,
    ModelOutput,
    PellucidError,
    RequirementError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """What every model behind a provider can be told.

    Attributes:
        max_concurrent_requests: How many requests are under way at once.
        timeout_s: How long an attempt may take as a whole, in seconds.
        cache_dir: Where answers are kept; None keeps none.
        strict: Whether a batch with a failed item raises.
        budget_tokens: The ceiling in tokens for the life of the model.
        budget_usd: The ceiling in US dollars.
        usd_per_million_tokens: One price, or one for tokens sent and one for tokens generated.
        retry: When to try again.
    """

    max_concurrent_requests: int
    timeout_s: float
    cache_dir: str | os.PathLike[str] | None
    strict: bool
    budget_tokens: int | None
    budget_usd: float | None
    usd_per_million_tokens: tuple[float, float] | float | None
    retry: RetryPolicy | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One thing to ask.

    Attributes:
        request: All that decides the answer, as JSON can hold it; no key.
        cost: What it may cost at most.
        is_drawn: Whether the answer is drawn at random, so that asking twice gives two answers.
    """

    request: Mapping[str, Any]
    cost: Cost
    is_drawn: bool = False


class RemoteModel(BaseModel, LossTextAccessMixin, ABC):
    """The part of a model that sends, keeps and counts; subclasses say what and how."""

    _client: LoopLocal[Any]
    _base_url: str | None
    _secret: Secret[str | None]
    _transport: Transport
    _cache: ResponseCache | None
    _strict: bool
    _prices: Prices | None

    def _set_up(
        self,
        *,
        provider: str,
        base_url: str | None,
        secret: Secret[str | None],
        options: RemoteOptions,
        more_secrets: Sequence[Secret[str | None]] = (),
    ) -> None:
        """Keep what a constructor was given; nothing is imported or sent."""
        check_at_least("max_concurrent_requests", options.max_concurrent_requests, 1)
        check_at_least("timeout_s", options.timeout_s, 0)
        self._base_url = base_url
        self._secret = secret
        self._strict = options.strict
        self._prices = make_prices(options.usd_per_million_tokens)
        self._cache = None if options.cache_dir is None else ResponseCache(options.cache_dir)
        self._transport = Transport(
            options.retry or RetryPolicy(),
            max_concurrent_requests=options.max_concurrent_requests,
            timeout_s=options.timeout_s,
            spending=Spending(options.budget_tokens, options.budget_usd),
            scrubber=Scrubber(secret, *more_secrets, url=base_url),
            provider=provider,
        )
        self._client = LoopLocal()
        weakref.finalize(self, _release, self._client, self._cache).atexit = False

    @abstractmethod
    def _import_sdk(self) -> Any:
        """Import what asks the provider; done before the first request, in the caller's thread."""

    @abstractmethod
    def _make_client(self) -> Any:
        """Return a client of the provider; made in the background loop, when first needed."""

    @abstractmethod
    async def _send(self, samples: Sequence[Sample]) -> Reply:
        """Make one request for some samples, and raise whatever its client raises."""

    def _chunk(self, samples: Sequence[Sample], rows: Sequence[int]) -> list[list[int]]:
        """Return which rows go into one request each: by default every one by itself."""
        del samples
        return [[row] for row in rows]

    def _unit_prices(self) -> Prices | None:
        """Return what tokens cost, None if that is not known."""
        return self._prices

    def get_request_stats(self) -> RequestStats:
        """Return what the requests since the last reset came to."""
        return dataclasses.replace(self._transport.stats)

    @property
    def spent(self) -> dict[str, float]:
        """What the model has cost in its life: tokens, and US dollars as far as known."""
        spending = self._transport.spending
        return {"tokens": spending.spent_tokens, "usd": spending.spent_usd}

    def reset_usage_stats(self) -> None:
        """Set all counters to zero; what is spent of a budget stays spent."""
        super().reset_usage_stats()
        self._transport.stats = RequestStats()

    def close(self) -> None:
        """Close connections and the cache; the next request opens them again."""
        _release(self._client, self._cache)

    def __repr__(self) -> str:
        url = "" if self._base_url is None else f", base_url={public_url(self._base_url)!r}"
        return f"{type(self).__name__}({self.get_model_name()!r}{url})"

    def _answer_all(self, samples: Sequence[Sample]) -> list[Any]:
        """Return for each sample its answer, or the `RequestError` it ended in.

        Raises:
            CacheError: (a ValueError) If there is a cache that cannot be read.
            RequirementError: If a budget in money is set and prices are not known.
        """
        self._import_sdk()
        self._check_prices()
        return run(self._answer_missing(samples))

    def _check_prices(self) -> None:
        if self._transport.spending.limit_usd is not None and self._unit_prices() is None:
            raise RequirementError(
                f"budget_usd is set, and what {self.get_model_name()!r} costs is not known. Give "
                "usd_per_million_tokens."
            )

    async def _answer_missing(self, samples: Sequence[Sample]) -> list[Any]:
        keys = [] if self._cache is None else _make_keys(samples)
        known = {} if self._cache is None else self._cache.get_many(list(dict.fromkeys(keys)))
        self._transport.stats.cached_samples += sum(key in known for key in keys)
        # Samples that are the same to the cache are asked once.
        first_of = {key: row for row, key in reversed(list(enumerate(keys)))}
        rows = [
            row
            for row in range(len(samples))
            if not keys or (keys[row] not in known and first_of[keys[row]] == row)
        ]
        if rows:
            self._connect()
        found = await self._ask(samples, rows, keys)
        self._transport.stats.failed_samples += sum(
            isinstance(answer, RequestError) for answer in found.values()
        )
        if not keys:
            return [found[row] for row in range(len(samples))]
        return [known[key] if key in known else found[first_of[key]] for key in keys]

    def _connect(self) -> Any:
        """Return the client, made if there is none yet.

        Raises:
            AuthenticationError: If the SDK refuses to make one, for want of a key as a rule.
        """
        try:
            return self._client.get(self._make_client)
        except PellucidError:
            raise
        except Exception as error:
            message = self._transport.clean(describe(error))
        raise AuthenticationError(f"no client for {self.get_model_name()!r} can be made: {message}")

    async def _ask(
        self, samples: Sequence[Sample], rows: Sequence[int], keys: Sequence[str]
    ) -> dict[int, Any]:
        """Send requests for some rows; one that fails as a whole is tried in halves."""
        found: dict[int, Any] = {}
        pending = self._chunk(samples, rows)
        while pending:
            outcomes = await self._transport.run(
                pending, self._sender(samples, keys), lambda some: _sum_costs(samples, some)
            )
            halves: list[list[int]] = []
            for some, outcome in zip(pending, outcomes, strict=True):
                if isinstance(outcome, Reply):
                    found.update(zip(some, outcome.answers, strict=True))
                elif isinstance(outcome, DivisibleError) and len(some) > 1:
                    middle = len(some) // 2
                    halves += [some[:middle], some[middle:]]
                else:
                    found.update(dict.fromkeys(some, outcome))
            pending = halves
        return found

    def _sender(
        self, samples: Sequence[Sample], keys: Sequence[str]
    ) -> Callable[[list[int]], Awaitable[Reply]]:
        async def send(rows: list[int]) -> Reply:
            reply = await self._send([samples[row] for row in rows])
            reply = dataclasses.replace(reply, cost=self._price(reply.cost))
            self._count(reply.cost, len(rows))
            if keys:
                self._keep({keys[i]: a for i, a in zip(rows, reply.answers, strict=True)})
            return reply

        return send

    def _price(self, cost: Cost) -> Cost:
        prices = self._unit_prices() if cost.usd is None else None
        if prices is None:
            return cost
        return dataclasses.replace(
            cost, usd=prices.price(cost.prompt_tokens, cost.completion_tokens)
        )

    def _count(self, cost: Cost, n_samples: int) -> None:
        stats = self._transport.stats
        stats.prompt_tokens += cost.prompt_tokens
        stats.completion_tokens += cost.completion_tokens
        stats.estimated_tokens += cost.tokens if cost.is_estimated else 0
        stats.usd = None if stats.usd is None or cost.usd is None else stats.usd + cost.usd
        self._update_usage_stats(tokens=cost.tokens, forward_calls=1, forward_samples=n_samples)

    def _keep(self, answers: Mapping[str, Any]) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put_many(answers)
        except CacheError as error:
            # The answers are paid for, and there.
            warnings.warn(f"answers are not kept: {error}", stacklevel=2)

    def _raise_if_strict(self, errors: list[Exception | None], output: ModelOutput) -> None:
        failed = [i for i, error in enumerate(errors) if error is not None]
        if not failed or not self._strict:
            return
        first = errors[failed[0]]
        status = getattr(first, "status", None)
        said = str(first)
        others = " The others' answers are in this error's `output`; strict=False returns them."
        raise BatchError(
            f"{len(failed)} of {len(errors)} requests failed; the first, item {failed[0]}: {said}"
            f"{'' if said.endswith('.') else '.'}{others if len(failed) < len(errors) else ''}",
            errors=errors,
            output=output,
            status=status,
        ) from first


def _make_keys(samples: Sequence[Sample]) -> list[str]:
    """Return a key for each sample; what is drawn twice in a batch has two."""
    keys: list[str] = []
    seen: dict[str, int] = {}
    for sample in samples:
        key = request_key(sample.request)
        if sample.is_drawn:
            seen[key] = seen.get(key, 0) + 1
            key = f"{key}-{seen[key]}"
        keys.append(key)
    return keys


def _sum_costs(samples: Sequence[Sample], rows: Sequence[int]) -> Cost:
    costs = [samples[row].cost for row in rows]
    return Cost(
        prompt_tokens=sum(cost.prompt_tokens for cost in costs),
        completion_tokens=sum(cost.completion_tokens for cost in costs),
        is_estimated=True,
        usd=sum(cost.usd or 0.0 for cost in costs),
    )


def _release(client: LoopLocal[Any], cache: ResponseCache | None) -> None:
    if cache is not None:
        cache.close()
    client.release(_close)


async def _close(client: Any) -> None:
    close = getattr(client, "aclose", None)
    if close is not None:
        await close()
