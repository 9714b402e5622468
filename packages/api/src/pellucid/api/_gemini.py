"""Google's encoders."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pellucid.api._encoder import CacheDir, RemoteEncoder
from pellucid.api._extras import import_extra
from pellucid.api._failures import ReplyError
from pellucid.api._policy import RetryPolicy
from pellucid.api._remote import RemoteOptions
from pellucid.api._secrets import Secret, check_url, public_url
from pellucid.core import ArgumentError, ModelOutput

TextType = Literal["document", "query"]

_TASKS = {"document": "RETRIEVAL_DOCUMENT", "query": "RETRIEVAL_QUERY"}


class EncoderGeminiModel(RemoteEncoder):
    """An encoder of Google's that is asked through the `google-genai` package.

    Texts are sent in requests of up to 100. The service counts no tokens, so usage is estimated.

    Args:
        model_name: The model.
        d_model: The width of the vectors, which the service is asked for.
        use_vertex: Whether to ask Vertex AI, with the credentials of the environment.
        project: The project, on Vertex AI.
        location: Where it runs, on Vertex AI.
        default_text_type: What texts are when a call does not say: "document", "query" or None.
        api_key: The key; `GOOGLE_API_KEY` or `GEMINI_API_KEY` when omitted.
        base_url: Address of another server.
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

    _max_texts = 100
    _max_tokens = 200_000
    _kind = "gemini-embedding"

    def __init__(
        self,
        model_name: str = "gemini-embedding-001",
        d_model: int = 3072,
        use_vertex: bool = False,
        *,
        project: str | None = None,
        location: str = "us-central1",
        default_text_type: TextType | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        max_concurrent_requests: int = 20,
        timeout_s: float = 120.0,
        cache_dir: CacheDir = None,
        strict: bool = True,
        budget_tokens: int | None = None,
        budget_usd: float | None = None,
        usd_per_million_tokens: tuple[float, float] | float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        check_url(base_url)
        _check_text_type(default_text_type)
        self._model_name = model_name
        self._vertex = {"project": project, "location": location} if use_vertex else None
        self.default_text_type = default_text_type
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
        self._set_width(d_model, None)

    def invoke_from_texts(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self, input_texts: Sequence[str], *, text_type: TextType | None = None
    ) -> ModelOutput:
        """Return the vectors of texts, float32, of shape (batch, d_embed), on the CPU.

        Args:
            input_texts: The texts.
            text_type: What they are; `default_text_type` when omitted.

        Raises:
            ArgumentError: (a ValueError) If the type is unknown.
            BatchError: If a text failed and the model is strict.
        """
        kind = text_type or self.default_text_type
        _check_text_type(kind)
        return self._encode(input_texts, text_type=kind)

    def _import_sdk(self) -> Any:
        return import_extra("google.genai", extra="gemini")

    def _make_client(self) -> Any:
        genai = self._import_sdk()
        return _GeminiClient(genai, self._secret.reveal(), self._base_url, self._vertex)

    async def _embed(self, texts: list[str], request: Any) -> tuple[list[Any], int | None, Any]:
        client = self._connect()
        config = {
            "task_type": _TASKS.get(request.get("text_type")),
            "output_dimensionality": request["d_model"],
        }
        return await client.embed(texts, self._model_name, config)


class _GeminiClient:
    """The part of the SDK that is used, its own retries off."""

    def __init__(
        self,
        genai: Any,
        api_key: str | None,
        base_url: str | None,
        vertex: dict[str, str | None] | None,
    ) -> None:
        options = {"base_url": base_url, "retry_options": {"attempts": 1}}
        where = {"vertexai": True, **vertex} if vertex else {"api_key": api_key}
        self._client = genai.Client(
            **where, http_options={name: held for name, held in options.items() if held is not None}
        )

    async def embed(
        self, texts: list[str], model: str, config: dict[str, Any]
    ) -> tuple[list[Any], int | None, Any]:
        given = {name: value for name, value in config.items() if value is not None}
        response = await self._client.aio.models.embed_content(
            model=model, contents=list(texts), config=given
        )
        found = getattr(response, "embeddings", None) or []
        vectors = [getattr(entry, "values", None) for entry in found]
        if not all(vectors):
            raise ReplyError("a vector is missing from the response", is_divisible=True)
        counts = [getattr(getattr(e, "statistics", None), "token_count", None) for e in found]
        known = [int(count) for count in counts if count]
        return vectors, sum(known) if found and len(known) == len(found) else None, None

    async def aclose(self) -> None:
        await self._client.aio.aclose()


def _check_text_type(text_type: str | None) -> None:
    if text_type is not None and text_type not in _TASKS:
        known = ", ".join(get_args(TextType))
        raise ArgumentError(f"unknown text type {text_type!r}. Use one of {known}, or None.")
