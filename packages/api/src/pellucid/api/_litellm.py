"""Language models behind any provider, or behind any server that speaks the OpenAI protocol."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pellucid.api._chat import MAX_TOP_LOGPROBS, make_messages
from pellucid.api._errors import RequestError
from pellucid.api._extras import import_extra
from pellucid.api._policy import RetryPolicy
from pellucid.api._remote import RemoteModel, RemoteOptions, Sample
from pellucid.api._secrets import Secret, check_url, public_url
from pellucid.api._spending import Cost, Prices, estimate_chat_tokens
from pellucid.api._transport import Reply
from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseTokenizer,
    Flow,
    LMBaseModel,
    MessageTargets,
    ModelInput,
    ModelOutput,
    Provides,
    Template,
    as_tokenizer,
)

Route = Literal["auto", "http", "litellm"]

_PROVIDES = {
    "generated_response_strs": ("require_generation",),
    "response_first_token_logprobs": ("require_first_token_logprobs",),
}
_ERRORS = {"errors": ("require_generation",)}
# Prefixes that say no more than that the server speaks the OpenAI protocol.
_OPENAI_PREFIXES = ("openai/", "custom_openai/", "hosted_vllm/")
_SECRET_PARAMS = ("api_key", "headers", "extra_headers")


class LiteLLMModel(RemoteModel, LMBaseModel):
    """A language model that is asked over the network.

    A text is one user turn, a conversation is sent as it is. Prompts of a batch are asked side by
    side and answered in order; a request that can succeed again is tried again. Nothing is sent, or
    imported, before the first call.

    Args:
        model_name: The model as litellm names it, `provider/name`, such as `openai/gpt-4o-mini`.
        base_url: Address of an OpenAI-compatible server, usually with `/v1`.
        api_key: The key; with a `base_url` none is sent unless given here, else litellm looks it up
            in the environment.
        system_prompt: Put before each prompt that has no system message of its own.
        max_concurrent_requests: How many requests are under way at once.
        timeout_s: How long an attempt may take as a whole, in seconds.
        cache_dir: Where answers are kept, by a hash of the request without the key; several
            processes may share it.
        strict: Whether a batch with a failed item raises `BatchError`, which holds the others'
            answers; otherwise the item is None and `output.errors` holds its error.
        budget_tokens: How many tokens the model may use in its life. A request that might exceed it
            is not sent, its error is `SpendingLimitError`.
        budget_usd: The same in US dollars.
        usd_per_million_tokens: What tokens cost, one price or one for tokens sent and one for
            tokens generated; by litellm's table when omitted.
        request_params: Further parameters of every request, such as `stop`, `seed` or `top_p`.
        client_params: Further arguments of `litellm.acompletion` that say where and as whom to ask,
            such as `api_version`; they are no part of the cache's key.
        using_litellm_proxy: Whether `base_url` is a LiteLLM proxy, which is given the whole name.
        route: "http" asks `base_url` directly, "litellm" through litellm; "auto" asks directly
            where the name says no more than that the server speaks the OpenAI protocol.
        tokenizer: What triggers are made of, for optimizers that need to know; the model itself
            works on text.
        retry: When to try again.

    Raises:
        ArgumentError: (a ValueError) If an argument has no meaning.
        BudgetError: (a ValueError) If a budget is not positive.
    """

    provides: Provides | None = {Flow.TEXTS: _PROVIDES}  # noqa: RUF012 - never changed

    _has_looked_prices_up = False

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        system_prompt: str | None = None,
        max_concurrent_requests: int = 20,
        timeout_s: float = 120.0,
        cache_dir: str | os.PathLike[str] | None = None,
        strict: bool = True,
        budget_tokens: int | None = None,
        budget_usd: float | None = None,
        usd_per_million_tokens: tuple[float, float] | float | None = None,
        request_params: Mapping[str, Any] | None = None,
        client_params: Mapping[str, Any] | None = None,
        using_litellm_proxy: bool = False,
        route: Route = "auto",
        tokenizer: Any = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        if not model_name:
            raise ArgumentError("model_name is empty. Write provider/name, as litellm does.")
        check_url(base_url)
        self._model_name = model_name
        self.system_prompt = system_prompt
        self.tokenizer: BaseTokenizer | None = tokenizer and as_tokenizer(tokenizer)
        self._request_params = dict(request_params or {})
        self._client_params = Secret(dict(client_params or {}))
        self._route = _choose_route(route, model_name, base_url, using_litellm_proxy)
        self._wire_name = _wire_name(model_name, self._route, whole=using_litellm_proxy)
        if self._route == "http" and set(self._client_params.reveal()) - {"headers"}:
            raise ArgumentError(
                f"client_params holds {sorted(self._client_params.reveal())!r}, of which a direct "
                "request knows only 'headers'. Set route='litellm'."
            )
        _check_params(self._request_params)
        if not strict:
            self.provides = {Flow.TEXTS: {**_PROVIDES, **_ERRORS}}
        self._set_up(
            provider=model_name if base_url is None else public_url(base_url),
            base_url=base_url,
            secret=Secret(api_key),
            options=RemoteOptions(
                max_concurrent_requests=max_concurrent_requests,
                timeout_s=timeout_s,
                cache_dir=cache_dir,
                strict=strict,
                budget_tokens=budget_tokens,
                budget_usd=budget_usd,
                usd_per_million_tokens=usd_per_million_tokens,
                retry=retry,
            ),
            more_secrets=_secrets_in(self._client_params.reveal()),
        )

    def _invoke_for_loss(self, model_input: ModelInput, loss_func: BaseLoss) -> ModelOutput:
        if not any(loss_func.options().values()):
            return ModelOutput()  # the loss reads what goes in, which costs no request
        return super()._invoke_for_loss(model_input, loss_func)

    def invoke_from_texts(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        input_texts: Sequence[Template],
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        require_first_token_logprobs: bool = False,
        *,
        max_new_tokens: int = 128,
        greedy_decode: bool = True,
    ) -> ModelOutput:
        """Ask for a response to each prompt, for the likeliest first tokens of it, or for both.

        Args:
            input_texts: The prompts.
            message_targets: Not used: providers compute no logits of a given response.
            require_target_prefill: Must be false, for the same reason.
            require_generation: Whether to return responses.
            require_first_token_logprobs: Whether to return the log-probabilities (nats) of the
                likeliest first tokens, up to 20, by their text.
            max_new_tokens: How long a response may grow; 1 is asked for when only the first token
                is wanted.
            greedy_decode: Whether to ask for temperature 0; otherwise for the server's own.

        Returns:
            What was asked for; where a request failed, and the model is not strict, None, with the
            error in `errors`.

        Raises:
            ArgumentError: (a ValueError) If neither responses nor log-probabilities are asked for,
                or a prefill is.
            BatchError: If a request failed and the model is strict.
            RequirementError: If a budget in money is set and prices are not known.
        """
        del message_targets
        _check_request(require_target_prefill, require_generation, require_first_token_logprobs)
        if not require_generation:
            max_new_tokens = 1
        samples = [
            self._make_sample(text, max_new_tokens, greedy_decode, require_first_token_logprobs)
            for text in input_texts
        ]
        found = self._answer_all(samples)
        errors = [held if isinstance(held, RequestError) else None for held in found]
        output = ModelOutput(
            generated_response_strs=_collect(found, "text") if require_generation else None,
            response_first_token_logprobs=(
                _collect(found, "logprobs") if require_first_token_logprobs else None
            ),
            errors=None if self._strict and not any(errors) else list(errors),
        )
        self._raise_if_strict(list(errors), output)
        return output

    def _make_sample(
        self, prompt: Template, max_tokens: int, is_greedy: bool, with_logprobs: bool
    ) -> Sample:
        messages = make_messages(prompt, self.system_prompt)
        body = {
            "model": self._wire_name,
            "messages": messages,
            "max_tokens": max_tokens,
            **({"temperature": 0} if is_greedy else {}),
            **({"logprobs": True, "top_logprobs": MAX_TOP_LOGPROBS} if with_logprobs else {}),
            **self._request_params,
        }
        n_prompt = estimate_chat_tokens(messages)
        prices = self._unit_prices() if self._transport.spending.limit_usd else None
        where = None if self._base_url is None else public_url(self._base_url)
        return Sample(
            request={"kind": "chat", "where": where, "model": self._model_name, "body": body},
            cost=Cost(
                prompt_tokens=n_prompt,
                completion_tokens=max_tokens,
                is_estimated=True,
                usd=None if prices is None else prices.price(n_prompt, max_tokens),
            ),
            is_drawn=body.get("temperature") != 0 and "seed" not in body,
        )

    async def _send(self, samples: Sequence[Sample]) -> Reply:
        client = self._connect()
        body: Mapping[str, Any] = samples[0].request["body"]
        return await client.complete(body, with_logprobs="logprobs" in body)

    def _import_sdk(self) -> Any:
        if self._route == "http":
            return import_extra("pellucid.api._http_chat", extra="litellm")
        from pellucid.api import _litellm_chat  # noqa: PLC0415 - for the sake of the other route

        _litellm_chat.import_litellm()
        return _litellm_chat

    def _make_client(self) -> Any:
        params = self._client_params.reveal()
        clients = self._import_sdk()
        if self._route == "http" and self._base_url is not None:
            return clients.HTTPChatClient(
                self._base_url,
                self._secret.reveal(),
                max_connections=self._transport.max_concurrent_requests,
                headers=params.get("headers", {}),
            )
        where = {"api_base": self._base_url, "api_key": self._secret.reveal()}
        given = {name: value for name, value in where.items() if value is not None}
        timeout = {"timeout": self._transport.timeout_s}
        return clients.LiteLLMChatClient(self._wire_name, {**timeout, **given, **params})

    def _unit_prices(self) -> Prices | None:
        if self._prices is None and self._route == "litellm" and not self._has_looked_prices_up:
            self._prices = self._import_sdk().find_prices(self._wire_name)
            self._has_looked_prices_up = True
        return self._prices


def _choose_route(route: str, model_name: str, base_url: str | None, is_proxy: bool) -> str:
    if route not in get_args(Route):
        raise ArgumentError(f"unknown route {route!r}. Use one of {', '.join(get_args(Route))}.")
    if base_url is None and (route == "http" or is_proxy):
        raise ArgumentError("a server that is asked directly has an address. Give base_url.")
    if route != "auto":
        return route
    is_plain = is_proxy or "/" not in model_name or model_name.startswith(_OPENAI_PREFIXES)
    return "http" if base_url is not None and is_plain else "litellm"


def _wire_name(model_name: str, route: str, *, whole: bool) -> str:
    if route == "litellm" or whole:
        return model_name
    prefix = next((p for p in _OPENAI_PREFIXES if model_name.startswith(p)), "")
    return model_name.removeprefix(prefix)


def _check_params(params: Mapping[str, Any]) -> None:
    own = {"model", "messages", "max_tokens", "logprobs", "top_logprobs", "stream", "n"}
    refused = sorted({*own, *_SECRET_PARAMS} & set(params))
    if refused:
        raise ArgumentError(
            f"request_params cannot hold {refused!r}: the model sets them, or they belong into "
            "client_params."
        )


def _check_request(prefill: bool, generation: bool, logprobs: bool) -> None:
    if prefill:
        raise ArgumentError(
            "a provider computes no logits of a given response, so require_target_prefill has no "
            "meaning. Use a loss over responses or their first token, such as FirstTokenNLLLoss."
        )
    if not generation and not logprobs:
        raise ArgumentError(
            "nothing is asked for. Set require_generation or require_first_token_logprobs."
        )


def _collect(found: Sequence[Any], name: str) -> list[Any]:
    return [None if isinstance(held, RequestError) else held[name] for held in found]


def _secrets_in(params: Mapping[str, Any]) -> list[Secret[str | None]]:
    values = [
        value
        for held in params.values()
        for value in (held.values() if isinstance(held, Mapping) else [held])
    ]
    return [Secret(value) for value in values if isinstance(value, str)]
