"""Keeps keys out of everything that is shown, stored or logged."""

import os
import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pellucid.core import ArgumentError

_T = TypeVar("_T")

_HIDDEN = "***"
_SHORTEST = 6
_SECRET_NAME = re.compile(
    r"(API_?KEY|ACCESS_KEY|SECRET|TOKEN|PASSWORD|CREDENTIALS?)$", re.IGNORECASE
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")


class Secret(Generic[_T]):
    """A value that never shows: not printed, not pickled, read with `reveal` alone.

    Args:
        value: The value, or None.
    """

    __slots__ = ("_value",)

    def __init__(self, value: _T) -> None:
        self._value = value

    def reveal(self) -> _T:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return "None" if self._value is None else f"'{_HIDDEN}'"

    def __reduce__(self) -> Any:
        raise ArgumentError(
            "a model that holds a key is not pickled, for the key would be written out. Make the "
            "model anew where it is needed."
        )


class Scrubber:
    """Takes keys out of texts that others wrote, such as a provider's error message.

    Args:
        secrets: Keys to look for, besides all that the environment holds under such names.
        url: An address whose user information is a secret, too.
    """

    def __init__(self, *secrets: Secret[str | None], url: str | None = None) -> None:
        self._secrets = secrets
        self._url_secrets = tuple(_secrets_of(url))

    def clean(self, text: str) -> str:
        """Return a text without keys."""
        for value in sorted(self._values(), key=len, reverse=True):
            text = text.replace(value, _HIDDEN)
        return _BEARER.sub(rf"\1 {_HIDDEN}", text)

    def _values(self) -> set[str]:
        given = {secret.reveal() or "" for secret in self._secrets}
        known = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
        return {v for v in {*given, *self._url_secrets, *known} if len(v) >= _SHORTEST}


def public_url(url: str) -> str:
    """Return an address without user information and without its query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_url(url: str | None) -> None:
    """Refuse what is no address of a server.

    Raises:
        ArgumentError: (a ValueError) If it is none.
    """
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ArgumentError(
            f"base_url {public_url(url)!r} is no address. Write http://HOST:PORT/v1 or the like."
        )


def _secrets_of(url: str | None) -> Iterator[str]:
    parts = urlsplit(url or "")
    yield parts.password or ""
    yield parts.query
