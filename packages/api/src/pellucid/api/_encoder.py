"""What all encoders behind a provider share: chunks, widths, rows of NaN for what failed."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.api._errors import RequestError
from pellucid.api._failures import ReplyError
from pellucid.api._policy import check_at_least
from pellucid.api._remote import RemoteModel, Sample
from pellucid.api._secrets import public_url
from pellucid.api._spending import Cost, estimate_tokens
from pellucid.api._transport import Reply
from pellucid.core import ArgumentError, EncoderBaseModel, Flow, ModelOutput, Provides

CacheDir = str | os.PathLike[str] | None

_PROVIDES = {"output_embeddings": ()}
_PROBE = "width"


class RemoteEncoder(RemoteModel, EncoderBaseModel):
    """The part of an encoder that cuts texts into requests and puts vectors together."""

    provides: Provides | None = {Flow.TEXTS: _PROVIDES}  # noqa: RUF012 - never changed

    _max_texts: ClassVar[int]
    _max_tokens: ClassVar[int]
    _kind: ClassVar[str]

    _model_name: str
    _asked_d_model: int | None
    _known_d_model: int | None

    @property
    def d_model(self) -> int:
        """The width of the vectors; asked of the server, once, where it is not known.

        Raises:
            RequestError: If the server does not answer.
        """
        if self._known_d_model is None:
            found = self._answer_all([self._make_sample(_PROBE, {})])
            if isinstance(found[0], RequestError):
                raise found[0]
            self._known_d_model = len(found[0])
        return self._known_d_model

    @abstractmethod
    async def _embed(self, texts: list[str], request: Any) -> tuple[list[Any], int | None, Any]:
        """Make one request; return vectors, tokens if they were counted, and headers."""

    def _set_width(self, d_model: int | None, native: int | None) -> None:
        if d_model is not None:
            check_at_least("d_model", d_model, 1)
        self._asked_d_model = None if d_model == native else d_model
        self._known_d_model = d_model or native
        if not self._strict:
            self.provides = {Flow.TEXTS: {**_PROVIDES, "errors": ()}}

    def _encode(self, texts: Sequence[str], **request: Any) -> ModelOutput:
        """Return the vectors of texts."""
        if not all(isinstance(text, str) for text in texts):
            raise ArgumentError(f"an encoder takes texts, got {list(texts)!r}.")
        found = self._answer_all([self._make_sample(text, request) for text in texts])
        errors = [held if isinstance(held, RequestError) else None for held in found]
        vectors = [held for held in found if not isinstance(held, RequestError)]
        if vectors and self._known_d_model is None:
            self._known_d_model = len(vectors[0])
        output = ModelOutput(
            output_embeddings=self._stack(found),
            errors=None if self._strict and not any(errors) else list(errors),
        )
        self._raise_if_strict(list(errors), output)
        return output

    def _stack(self, found: Sequence[Any]) -> Float[Tensor, "batch d_embed"]:
        absent = [float("nan")] * (self._known_d_model or 1)
        rows = [absent if isinstance(held, RequestError) else held for held in found]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(absent))

    def _make_sample(self, text: str, request: dict[str, Any]) -> Sample:
        n_tokens = estimate_tokens(text)
        prices = self._unit_prices()
        return Sample(
            request={
                "kind": self._kind,
                "where": None if self._base_url is None else public_url(self._base_url),
                "model": self._model_name,
                "d_model": self._asked_d_model,
                "text": text,
                **request,
            },
            cost=Cost(
                prompt_tokens=n_tokens,
                is_estimated=True,
                usd=None if prices is None else prices.price(n_tokens, 0),
            ),
        )

    def _chunk(self, samples: Sequence[Sample], rows: Sequence[int]) -> list[list[int]]:
        """Fill requests up to what the provider takes, in texts and in tokens."""
        chunks: list[list[int]] = []
        n_tokens = 0
        for row in rows:
            more = samples[row].cost.prompt_tokens
            is_full = chunks and (
                len(chunks[-1]) >= self._max_texts or n_tokens + more > self._max_tokens
            )
            if not chunks or is_full:
                chunks.append([])
                n_tokens = 0
            chunks[-1].append(row)
            n_tokens += more
        return chunks

    async def _send(self, samples: Sequence[Sample]) -> Reply:
        texts = [sample.request["text"] for sample in samples]
        vectors, n_tokens, headers = await self._embed(texts, samples[0].request)
        self._check_vectors(vectors, len(texts))
        estimate = sum(sample.cost.prompt_tokens for sample in samples)
        return Reply(
            answers=[list(vector) for vector in vectors],
            cost=Cost(prompt_tokens=n_tokens or estimate, is_estimated=not n_tokens),
            headers=headers,
        )

    def _check_vectors(self, vectors: Sequence[Any], n_texts: int) -> None:
        if len(vectors) != n_texts:
            raise ReplyError(
                f"{len(vectors)} vectors came back for {n_texts} texts", is_divisible=True
            )
        widths = {len(vector) for vector in vectors}
        if self._known_d_model is None and len(widths) == 1:
            return
        wrong = sorted(widths - {self._known_d_model})
        if wrong or len(widths) > 1:
            raise ReplyError(
                f"a vector of width {wrong[0]} came back, expected {self._known_d_model}; give the "
                "model's own width as d_model",
                is_divisible=True,
            )
