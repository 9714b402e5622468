"""What a request to a provider can end in besides an answer."""

from typing import Any

from pellucid.core import PellucidError


class RequestError(PellucidError, RuntimeError):
    """A request was not answered, and trying again would not help or has not helped.

    Attributes:
        status: The HTTP status, where there was one.
        n_attempts: How often it was sent.
        is_transient: Whether the last failure was of a kind that can pass by itself.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        n_attempts: int = 0,
        is_transient: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.n_attempts = n_attempts
        self.is_transient = is_transient


class AuthenticationError(RequestError):
    """The provider does not accept the key; nothing else is sent in its batch."""


class ResponseError(RequestError, ValueError):
    """What came back is not an answer to the request."""


class SpendingLimitError(RequestError):
    """The budget in tokens or money does not allow the request; it was not sent."""


class CacheError(PellucidError, ValueError):
    """The cache of responses cannot be read or written."""


class BatchError(RequestError):
    """Some requests of a batch failed, and the model is strict.

    Attributes:
        errors: For each item of the batch its error, or None.
        output: What a model that is not strict would have returned: all that was answered.
    """

    def __init__(
        self, message: str, *, errors: list[Exception | None], output: Any, **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.errors = errors
        self.output = output

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_batch_error, (type(self), self.args, self.__dict__)


def _rebuild_batch_error(kind: type[BatchError], args: tuple[Any, ...], state: Any) -> BatchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
