"""Reads what went wrong out of the errors that HTTP clients and provider SDKs raise."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.api._rate_limits import read_retry_after

_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
# Not implemented, HTTP version not supported: no wait changes those.
_PERMANENT_SERVER_STATUSES = frozenset({501, 505})
# A 429 of this kind means that the account has no money left.
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
_CONNECTION_ERRORS = frozenset(
    {
        "APIConnectionError",
        "APIResponseValidationError",
        "APITimeoutError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ServerDisconnectedError",
        "ServiceUnavailableError",
        "Timeout",
        "TransportError",
        "TryAgain",
    }
)
# An SDK raises the bare base class of its errors before it sends anything: a key is missing.
_UNSENT = frozenset({("anthropic", "AnthropicError"), ("openai", "OpenAIError")})
_LONGEST_MESSAGE = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        message: What the client or the provider said.
        status: The HTTP status, where there was one.
        is_transient: Whether the same request can succeed again.
        is_divisible: Whether a part of the request may succeed where the whole did not.
        is_unauthorized: Whether the provider does not accept the key.
        is_malformed: Whether an answer came that is none.
        asked_wait_s: How long the server asks to wait, in seconds.
    """

    message: str
    status: int | None = None
    is_transient: bool = False
    is_divisible: bool = False
    is_unauthorized: bool = False
    is_malformed: bool = False
    asked_wait_s: float | None = None


class ReplyError(Exception):
    """An adapter found an answer that is none, or a status that means an error.

    Args:
        message: What is wrong.
        status: The HTTP status, where that says it.
        headers: Those of the response.
        is_transient: Whether to try again; decided by the status if there is one.
        is_divisible: Whether to try with a part of the request.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        is_transient: bool = False,
        is_divisible: bool = False,
    ) -> None:
        super().__init__(message)
        self.status_code = status
        self.headers = headers
        self.is_transient = is_transient
        self.is_divisible = is_divisible


def classify(error: Exception) -> Failure:
    """Return what an error means, whatever library raised it."""
    message = describe(error)
    if isinstance(error, ReplyError) and error.status_code is None:
        return Failure(
            message=message,
            is_transient=error.is_transient,
            is_divisible=error.is_divisible,
            is_malformed=True,
        )
    if isinstance(error, TimeoutError):
        return Failure(message="no answer in time", is_transient=True)
    status = _status_of(error)
    if status is None or status < 400:
        # A body that is no JSON was cut off or came from something in between.
        is_cut = (
            status is not None
            or isinstance(error, json.JSONDecodeError)
            or "ValidationError" in type(error).__name__
        )
        is_transient = is_cut or _is_connection_error(error)
        return Failure(message=message, is_transient=is_transient, is_malformed=is_cut)
    if any(_kind_of(each) in _UNSENT for each in _chain(error)):
        # litellm reports it as an error of the server's.
        return Failure(message=message, is_unauthorized=True)
    is_broke = status == 429 and any(word in _all_words(error) for word in _NO_MONEY)
    is_server = status >= 500 and status not in _PERMANENT_SERVER_STATUSES
    return Failure(
        message=message,
        status=status,
        is_transient=not is_broke and (is_server or status in _TRANSIENT_STATUSES),
        is_divisible=status in (400, 413, 422),
        is_unauthorized=status == 401,
        asked_wait_s=read_retry_after(_headers_of(error)),
    )


def describe(error: Exception) -> str:
    """Return an error's message in one line of bounded length, its kind before it."""
    text = " ".join(str(error).split()) or "no message"
    short = text if len(text) <= _LONGEST_MESSAGE else f"{text[: _LONGEST_MESSAGE - 3]}..."
    return short if isinstance(error, ReplyError) else f"{type(error).__name__}: {short}"


def _all_words(error: BaseException) -> str:
    """Return what an error and those it was raised from say, response bodies included."""
    words: list[str] = []
    for each in _chain(error):
        words += [str(each), str(getattr(each, "code", "")), str(getattr(each, "body", ""))]
    return " ".join(words)


def _kind_of(error: BaseException) -> tuple[str, str]:
    kind = type(error)
    return kind.__module__.partition(".")[0], kind.__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status_of(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    for holder, name in (
        (error, "status_code"),
        (error, "http_status"),
        (error, "code"),
        (response, "status_code"),
    ):
        status = getattr(holder, name, None)
        if isinstance(status, int) and 100 <= status < 600:
            return status
    return None


def _headers_of(error: Exception) -> Mapping[str, str]:
    holders = (error, getattr(error, "response", None))
    names = ("headers", "litellm_response_headers")
    found = (getattr(holder, name, None) for holder in holders for name in names)
    return next((headers for headers in found if isinstance(headers, Mapping) and headers), {})


def _is_connection_error(error: Any) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, EOFError, OSError)) or bool(
        kinds & _CONNECTION_ERRORS
    )
