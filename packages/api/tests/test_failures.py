"""What an error means, told by the errors that real client libraries raise."""

import openai
import pytest

from pellucid.api._failures import classify


class ServerError(Exception):
    def __init__(self, status, message=""):
        super().__init__(message)
        self.status_code = status


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status):
    assert classify(ServerError(status)).is_transient


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501, 505])
def test_what_cannot_pass_is_not_tried_again(status):
    assert not classify(ServerError(status)).is_transient


def test_an_empty_account_is_not_asked_again():
    assert not classify(ServerError(429, "insufficient_quota")).is_transient


def test_a_missing_key_is_no_failure_of_a_server_whoever_says_so():
    # litellm hides what the client says before anything is sent behind an error of the server's.
    hidden = ServerError(500, "Missing credentials")
    hidden.__context__ = openai.OpenAIError("Missing credentials")
    failure = classify(hidden)
    assert not failure.is_transient
    assert failure.is_unauthorized
