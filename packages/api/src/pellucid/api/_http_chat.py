"""Chat with any server that speaks the OpenAI protocol, without a provider's SDK."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from pellucid.api._chat import read_completion
from pellucid.api._failures import ReplyError
from pellucid.api._transport import Reply

_PATH = "/chat/completions"


class HTTPChatClient:
    """A pool of connections to one server.

    Args:
        base_url: The server's address, with `/v1` where it has that.
        api_key: Sent as a bearer token, unless None.
        max_connections: How many connections are kept.
        headers: Further headers.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        max_connections: int,
        headers: Mapping[str, str],
    ) -> None:
        parts = urlsplit(base_url)
        path = parts.path.rstrip("/") + _PATH
        self._url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
        given = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._client = httpx.AsyncClient(
            headers={"content-type": "application/json", **given, **headers},
            limits=httpx.Limits(
                max_connections=max_connections, max_keepalive_connections=max_connections
            ),
            # The transport bounds an attempt as a whole.
            timeout=None,
        )

    async def complete(self, body: Mapping[str, Any], *, with_logprobs: bool) -> Reply:
        """Ask for one completion.

        Raises:
            ReplyError: If the answer is none.
            httpx.HTTPError: If no answer came.
        """
        content = json.dumps(body, separators=(",", ":")).encode()
        response = await self._client.post(self._url, content=content)
        headers = response.headers
        if response.status_code != 200:
            message = _read_error(response.text)
            raise ReplyError(message, status=response.status_code, headers=headers)
        try:
            data = json.loads(response.content)
        except ValueError as error:
            raise ReplyError("the response is no JSON", is_transient=True) from error
        reply = read_completion(data, body["messages"], with_logprobs=with_logprobs)
        return Reply(answers=reply.answers, cost=reply.cost, headers=headers)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _read_error(text: str) -> str:
    """Return the message of an error response, in whichever way servers write it."""
    try:
        data = json.loads(text)
    except ValueError:
        return text or "no message"
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return str(error)
    message = error.get("message") or error.get("detail") or error
    code = error.get("code")
    return f"{message} ({code})" if isinstance(code, str) else str(message)
