"""What a server says about how many requests it takes, and the gate that honours it."""

import asyncio
import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# A reset above this is a point in time, in seconds since 1970.
_EARLIEST_TIMESTAMP = 10**9
_LIMITS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
)

REFUSALS_IN_A_ROW = 2
"""So many refusals without an answer between them hold all requests back, not their own alone."""


class Gate:
    """Holds requests back while a server says that there are too many.

    One refusal may be about the request, several in a row are about all of them. It is also closed
    when a server announces that no further request is left before a point in time.

    Args:
        longest_wait_s: Announcements of a longer wait than that are not believed.
    """

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._opens_at = 0.0
        self._refusals = 0

    def refuse(self, wait_s: float) -> None:
        """Take note that the server refused a request for want of capacity."""
        self._refusals += 1
        if self._refusals >= REFUSALS_IN_A_ROW:
            self._close_for(wait_s)

    def answer(self, headers: Mapping[str, str] | None) -> None:
        """Take note that the server answered."""
        self._refusals = 0
        wait_s = read_exhaustion(headers) if headers else None
        if wait_s is not None:
            self._close_for(wait_s)

    async def pass_through(self) -> None:
        """Wait until the gate is open."""
        while (wait_s := self._opens_at - now()) > 0:
            await asyncio.sleep(wait_s)

    def _close_for(self, wait_s: float) -> None:
        if wait_s <= self._longest_wait_s:
            self._opens_at = max(self._opens_at, now() + wait_s)


def now() -> float:
    """Return the time of the running loop, or that which loops go by, in seconds."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait before the request is sent again."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    asked = headers.get("retry-after") or headers.get("Retry-After") or ""
    return _read_span(asked)


def read_exhaustion(headers: Mapping[str, str]) -> float | None:
    """Return in how many seconds requests are left again, None if some are left now."""
    return max(_resets(headers), default=None)


def _resets(headers: Mapping[str, str]) -> Iterator[float]:
    for remaining, reset in _LIMITS:
        if headers.get(remaining, "").strip() == "0":
            wait_s = _read_span(headers.get(reset, ""))
            if wait_s is not None:
                yield wait_s


def _read_span(text: str) -> float | None:
    """Return seconds from `12`, `1m30s`, `20ms`, an HTTP date, an ISO date or a timestamp."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        return max(0.0, seconds - time.time()) if seconds > _EARLIEST_TIMESTAMP else seconds
    if _SPAN.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    moment = _read_date(text)
    return None if moment is None else max(0.0, moment.timestamp() - time.time())


def _read_date(text: str) -> datetime | None:
    for read in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        try:
            return read(text)
        except (ValueError, TypeError, IndexError):
            continue
    return None
