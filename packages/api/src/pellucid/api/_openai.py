"""Encoders behind the OpenAI protocol."""

from collections.abc import Sequence
from typing import Any

from pellucid.api._encoder import CacheDir, RemoteEncoder
from pellucid.api._extras import import_extra
from pellucid.api._failures import ReplyError
from pellucid.api._policy import RetryPolicy
from pellucid.api._remote import RemoteOptions
from pellucid.api._secrets import Secret, check_url, public_url
from pellucid.api._tiktoken import OpenAITokenizer
from pellucid.core import (
    ArgumentError,
    BaseTokenizer,
    DefaultTokenInputManager,
    ModelOutput,
    Targets,
    Template,
    TokenAccessMixin,
    as_tokenizer,
    check_templates,
)

_NATIVE_WIDTHS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}


class EncoderOpenAIModel(RemoteEncoder, TokenAccessMixin):
    """An encoder that is asked through the `openai` package: OpenAI's, or any server like it.

    Texts are sent in requests of up to 2048 texts and 250 000 tokens. A request that is refused, or
    answered with a wrong number or width of vectors, is tried again in halves, so that one text
    does not lose the others.

    Args:
        model_name: The model.
        d_model: The width of the vectors; when it is not the model's own, the server is asked for
            it. Found with one request, when it is first needed, if neither is known.
        api_key: The key; `OPENAI_API_KEY` when omitted, but none is sent to a `base_url`.
        base_url: Address of another server, with `/v1` where it has that.
        tokenizer: What triggers are made of; that of the model, `OpenAITokenizer`, when omitted.
        max_concurrent_requests: How many requests are under way at once.
        timeout_s: How long an attempt may take as a whole, in seconds.
        cache_dir: Where vectors are kept, text by text.
        strict: Whether a batch with a failed text raises; otherwise its row is NaN and
            `output.errors` holds its error.
        budget_tokens: How many tokens the model may use in its life.
        budget_usd: The same in US dollars; needs `usd_per_million_tokens`.
        usd_per_million_tokens: What tokens cost.
        retry: When to try again.

    Raises:
        ArgumentError: (a ValueError) If an argument has no meaning.
    """

    _max_texts = 2048
    # The provider's limit is 300 000; these are estimates.
    _max_tokens = 250_000
    _kind = "openai-embedding"

    def __init__(
        self,
        model_name: str = "text-embedding-3-small",
        d_model: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        tokenizer: Any = None,
        max_concurrent_requests: int = 20,
        timeout_s: float = 60.0,
        cache_dir: CacheDir = None,
        strict: bool = True,
        budget_tokens: int | None = None,
        budget_usd: float | None = None,
        usd_per_million_tokens: tuple[float, float] | float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        check_url(base_url)
        self._model_name = model_name
        self._own_tokenizer = None if tokenizer is None else as_tokenizer(tokenizer)
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
        )
        self._set_width(d_model, _NATIVE_WIDTHS.get(model_name) if base_url is None else None)

    @property
    def tokenizer(self) -> BaseTokenizer:
        """What triggers are made of; made when first asked for."""
        if self._own_tokenizer is None:
            self._own_tokenizer = OpenAITokenizer(self._model_name)
        return self._own_tokenizer

    def set_inputs_from_tokens(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; triggers are decoded and filled in as text.

        Raises:
            TemplateError: (a ValueError) If a template is not as it must be.
        """
        checked = check_templates(templates, targets)
        if not all(isinstance(template, str) for template in checked):
            raise ArgumentError("an encoder takes texts, and a template is a conversation.")
        self._token_input_manager = DefaultTokenInputManager(
            self.tokenizer, [self.tokenizer.encode(str(text)) for text in checked], targets
        )

    def invoke_from_texts(self, input_texts: Sequence[str]) -> ModelOutput:  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        """Return the vectors of texts, float32, of shape (batch, d_embed), on the CPU.

        Raises:
            BatchError: If a text failed and the model is strict.
        """
        return self._encode(input_texts)

    def _import_sdk(self) -> Any:
        return import_extra("openai", extra="openai")

    def _make_client(self) -> Any:
        openai = self._import_sdk()
        api_key = self._secret.reveal()
        if api_key is None and self._base_url is not None:
            api_key = "none"  # the client insists on one
        return _OpenAIClient(openai, api_key, self._base_url)

    async def _embed(self, texts: list[str], request: Any) -> tuple[list[Any], int | None, Any]:
        client = self._connect()
        return await client.embed(texts, request["model"], request["d_model"])


class _OpenAIClient:
    """The part of the SDK that is used, its own retries off."""

    def __init__(self, openai: Any, api_key: str | None, base_url: str | None) -> None:
        self._client = openai.AsyncOpenAI(
            api_key=api_key, base_url=base_url, max_retries=0, timeout=None
        )

    async def embed(
        self, texts: list[str], model: str, d_model: int | None
    ) -> tuple[list[Any], int | None, Any]:
        width = {} if d_model is None else {"dimensions": d_model}
        raw = await self._client.embeddings.with_raw_response.create(
            model=model, input=texts, **width
        )
        response = raw.parse()
        data = getattr(response, "data", None)
        if not isinstance(data, list):
            raise ReplyError("the response holds no vectors", is_transient=True)
        usage = getattr(response, "usage", None)
        return _in_order(data), getattr(usage, "prompt_tokens", None), raw.headers

    async def aclose(self) -> None:
        await self._client.close()


def _in_order(data: list[Any]) -> list[Any]:
    """Return vectors by the index that comes with each, as the protocol leaves their order open."""
    places = [getattr(entry, "index", None) for entry in data]
    if sorted(p for p in places if isinstance(p, int)) == list(range(len(data))):
        data = sorted(data, key=lambda entry: entry.index)
    vectors = [getattr(entry, "embedding", None) for entry in data]
    if not all(isinstance(vector, list) and vector for vector in vectors):
        raise ReplyError("a vector is missing from the response", is_divisible=True)
    return vectors
