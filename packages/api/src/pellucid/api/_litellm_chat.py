"""Chat with any provider that litellm knows."""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from pellucid.api._chat import read_completion
from pellucid.api._extras import import_extra, undisturbed
from pellucid.api._spending import Cost, Prices
from pellucid.api._transport import Reply

_OFFLINE = "LITELLM_LOCAL_MODEL_COST_MAP"


def import_litellm() -> Any:
    """Return litellm.

    Its first import would fetch a table of prices; the one that it ships is used instead.

    Raises:
        MissingDependencyError: (an ImportError) If it is not installed.
    """
    if sys.modules.get("litellm") is not None:
        return sys.modules["litellm"]
    with _variable(_OFFLINE, "True"), undisturbed():
        litellm = import_extra("litellm", extra="litellm")
        # It would print advice to the terminal beside every error.
        litellm.suppress_debug_info = True
        # Half of it is imported by its first request, with warnings that it means to filter: this
        # one is answered without a server.
        messages = [{"role": "user", "content": "hello"}]
        litellm.completion(model="openai/none", messages=messages, mock_response="hello")
    return litellm


class LiteLLMChatClient:
    """Asks through litellm, whose own retries are off.

    Args:
        model: The model as litellm names it, `provider/name`.
        connection: `api_base`, `api_key` and whatever else tells where and as whom to ask.
    """

    def __init__(self, model: str, connection: Mapping[str, Any]) -> None:
        self._litellm = import_litellm()
        self._model = model
        self._connection = dict(connection)

    async def complete(self, body: Mapping[str, Any], *, with_logprobs: bool) -> Reply:
        """Ask for one completion.

        Raises:
            Exception: What litellm raises.
        """
        asked = {name: value for name, value in body.items() if name != "model"}
        response = await self._litellm.acompletion(
            model=self._model, num_retries=0, max_retries=0, **asked, **self._connection
        )
        reply = read_completion(response, body["messages"], with_logprobs=with_logprobs)
        hidden: Mapping[str, Any] = getattr(response, "_hidden_params", None) or {}
        return Reply(
            answers=reply.answers,
            cost=_with_price(reply.cost, hidden.get("response_cost")),
            headers=_read_headers(hidden),
        )


def find_prices(model: str) -> Prices | None:
    """Return what a model's tokens cost by litellm's table, None if it is not there."""
    litellm = import_litellm()
    try:
        prompt, completion = litellm.cost_per_token(
            model=model, prompt_tokens=1_000_000, completion_tokens=1_000_000
        )
    except Exception:
        # Whatever it says, it comes to this: there is no price.
        return None
    return Prices(prompt_usd=prompt, completion_usd=completion)


def _with_price(cost: Cost, usd: Any) -> Cost:
    if not isinstance(usd, (int, float)) or cost.is_estimated or not usd > 0:
        return cost
    return Cost(
        prompt_tokens=cost.prompt_tokens, completion_tokens=cost.completion_tokens, usd=float(usd)
    )


def _read_headers(hidden: Mapping[str, Any]) -> dict[str, str]:
    given: Mapping[str, Any] = hidden.get("additional_headers") or {}
    return {name.removeprefix("llm_provider-"): str(value) for name, value in given.items()}


@contextmanager
def _variable(name: str, value: str) -> Generator[None]:
    """Set an environment variable that is not set, for a while."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
