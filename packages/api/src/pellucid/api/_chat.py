"""Chat requests and completions as the OpenAI protocol writes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.api._failures import ReplyError
from pellucid.api._spending import Cost, estimate_chat_tokens, estimate_tokens
from pellucid.api._transport import Reply
from pellucid.core import Messages, Template

MAX_TOP_LOGPROBS = 20
"""How many of the likeliest first tokens providers return at most."""

_WITHHELD = "content_filter"


def make_messages(prompt: Template, system_prompt: str | None) -> Messages:
    """Return a prompt as a conversation.

    Args:
        prompt: A text, which becomes one user turn, or a conversation.
        system_prompt: Put first, unless the conversation begins with a system message of its own.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def read_completion(response: Any, messages: Messages, *, with_logprobs: bool) -> Reply:
    """Return what a chat completion holds.

    Args:
        response: A completion, as JSON or as an object with the same fields.
        messages: What was asked, for the estimate of tokens that the provider did not count.
        with_logprobs: Whether log-probabilities were asked for.

    Raises:
        ReplyError: If it holds no answer, or the provider withheld it.
    """
    choices = field(response, "choices")
    if not isinstance(choices, Sequence) or not choices:
        raise ReplyError("the response holds no choices", is_transient=True)
    message = field(choices[0], "message")
    if message is None:
        raise ReplyError("the response holds no message", is_transient=True)
    text = _read_text(message, field(choices[0], "finish_reason"))
    answer: dict[str, Any] = {"text": text}
    if with_logprobs:
        answer["logprobs"] = _read_first_token(field(choices[0], "logprobs"), text)
    return Reply(answers=[answer], cost=_read_usage(field(response, "usage"), messages, text))


def field(holder: Any, name: str) -> Any:
    """Return a field of an object or of JSON, None if it is not there."""
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _read_text(message: Any, finish_reason: Any) -> str:
    text = field(message, "content")
    if text is None:
        if finish_reason == _WITHHELD:
            raise ReplyError("the provider withheld the answer (content_filter)")
        # A model that declines says so in a field of its own; one that says nothing has null here.
        aside = field(message, "provider_specific_fields") or {}
        text = field(message, "refusal") or field(aside, "refusal") or ""
    if not isinstance(text, str):
        raise ReplyError(f"the content is {type(text).__name__}, expected a text")
    return text


def _read_first_token(logprobs: Any, text: str) -> dict[str, float]:
    """Return log-probabilities (nats) of the likeliest first tokens by their text.

    Tokens of the same text share an entry: that of either of them.
    """
    tokens = field(logprobs, "content") if logprobs is not None else None
    if not tokens:
        if logprobs is not None and not text:
            raise ReplyError("the answer is empty, so its first token has no log-probabilities")
        raise ReplyError(
            "the server gives no log-probabilities; use a loss over responses, or another server"
        )
    found: dict[str, float] = {}
    for entry in field(tokens[0], "top_logprobs") or [tokens[0]]:
        token, value = field(entry, "token"), field(entry, "logprob")
        if not isinstance(token, str) or not isinstance(value, (int, float)) or math.isnan(value):
            raise ReplyError("a log-probability is malformed", is_transient=True)
        found[token] = _add(found[token], float(value)) if token in found else float(value)
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def _add(left: float, right: float) -> float:
    high, low = max(left, right), min(left, right)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _read_usage(usage: Any, messages: Messages, text: str) -> Cost:
    sent, made = field(usage, "prompt_tokens"), field(usage, "completion_tokens")
    if isinstance(sent, int) and sent > 0:
        return Cost(prompt_tokens=sent, completion_tokens=made if isinstance(made, int) else 0)
    return Cost(
        prompt_tokens=estimate_chat_tokens(messages),
        completion_tokens=estimate_tokens(text) if text else 0,
        is_estimated=True,
    )
