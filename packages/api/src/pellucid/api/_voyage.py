"""Voyage AI's encoders."""

from collections.abc import Sequence
from typing import Any

from pellucid.api._encoder import CacheDir, RemoteEncoder
from pellucid.api._extras import import_extra
from pellucid.api._failures import ReplyError
from pellucid.api._policy import RetryPolicy
from pellucid.api._remote import RemoteOptions
from pellucid.api._secrets import Secret, check_url, public_url
from pellucid.core import ModelOutput


class EncoderVoyageModel(RemoteEncoder):
    """An encoder of Voyage AI's that is asked through the `voyageai` package.

    Texts are sent in requests of up to 128 texts and 100 000 tokens.

    Args:
        model_name: The model.
        d_model: The width of the vectors, which the service is asked for.
        api_key: The key; `VOYAGE_API_KEY` when omitted.
        base_url: Address of another server, with `/v1` where it has that.
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

    _max_texts = 128
    _max_tokens = 100_000
    _kind = "voyage-embedding"

    def __init__(
        self,
        model_name: str = "voyage-4",
        d_model: int = 1024,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
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

    def invoke_from_texts(self, input_texts: Sequence[str]) -> ModelOutput:  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        """Return the vectors of texts, float32, of shape (batch, d_embed), on the CPU.

        Raises:
            BatchError: If a text failed and the model is strict.
        """
        return self._encode(input_texts)

    def _import_sdk(self) -> Any:
        return import_extra("voyageai", extra="voyage")

    def _make_client(self) -> Any:
        voyageai = self._import_sdk()
        # Its own retries are off.
        return voyageai.AsyncClient(
            api_key=self._secret.reveal(), base_url=self._base_url, max_retries=0
        )

    async def _embed(self, texts: list[str], request: Any) -> tuple[list[Any], int | None, Any]:
        client = self._connect()
        response = await client.embed(
            texts, model=self._model_name, output_dimension=request["d_model"]
        )
        vectors = response.embeddings
        if not all(isinstance(vector, list) and vector for vector in vectors):
            raise ReplyError("a vector is missing from the response", is_divisible=True)
        return vectors, response.total_tokens, None
