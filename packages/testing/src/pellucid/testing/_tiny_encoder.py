"""An encoder of a few thousand weights that runs in milliseconds."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseTokenizer,
    EncoderBaseModel,
    Flow,
    MessageTargets,
    ModelOutput,
    Provides,
    Template,
)
from pellucid.testing._tiny_model import TinyModel
from pellucid.testing._tiny_tokenizer import PAD, TinyTokenizer
from pellucid.testing._tiny_weights import EncoderWeights

_PLACES = {"input_slices": (), "input_trigger_slots": ()}
_PROVIDES: Provides = {
    Flow.TEXTS: {"output_embeddings": ()},
    Flow.TOKENS: {"output_embeddings": (), "input_ids": (), **_PLACES},
    Flow.EMBEDS: {"output_embeddings": (), "input_embeds": (), **_PLACES},
}


class TinyEncoder(TinyModel, EncoderBaseModel):
    """A random sentence encoder with every access there is, in torch alone.

    The mean of a hidden layer over positions, projected. Texts are encoded as they are, without
    special tokens; conversations as lines of "role: content". The empty text has a vector, too.

    Args:
        seed: Of the weights; no global generator is touched.
        d_model: The width of token embeddings and of the vectors.
        dtype: Of the weights; float64 makes finite differences exact.
        padded_rows: Rows of the embedding table that no token of the tokenizer has.
        tokenizer: A `BaseTokenizer` in which 0 is padding.
    """

    provides = _PROVIDES

    def __init__(
        self,
        seed: int = 0,
        *,
        d_model: int = 16,
        dtype: torch.dtype = torch.float32,
        padded_rows: int = 0,
        tokenizer: BaseTokenizer | None = None,
    ) -> None:
        self._tokenizer = tokenizer if tokenizer is not None else TinyTokenizer()
        d_vocab = self._tokenizer.vocab_size + padded_rows
        generator = torch.Generator().manual_seed(seed)
        self._model = EncoderWeights(d_vocab, d_model, generator).to(dtype)
        self._model_name = f"tiny-encoder-{seed}"

    @property
    def embedding_matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of each token, positions not included."""
        return self._model.get_parameter("embedding")

    @property
    def d_model(self) -> int:
        """The width of the vectors."""
        return self.embedding_matrix.shape[1]

    def render(self, template: Template) -> str:
        """Return a text as it is, and a conversation as lines."""
        if isinstance(template, str):
            return template
        return "\n".join(f"{message['role']}: {message['content']}" for message in template)

    def invoke_from_texts(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self, input_texts: Sequence[Template]
    ) -> ModelOutput:
        """Encode texts of any lengths in one forward pass."""
        rows = [self._tokenizer.encode(self.render(text)) for text in input_texts]
        width = max(map(len, rows), default=0)
        padded = [row + [PAD] * (width - len(row)) for row in rows]
        input_ids = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        vectors = self._model(self.embedding_matrix[input_ids], lengths)
        self._update_invoke_stats(n_tokens=int(lengths.sum()), n_samples=len(rows))
        return ModelOutput(output_embeddings=vectors)

    def invoke_from_tokens(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        **kwargs: Any,
    ) -> ModelOutput:
        """Encode token ids; an encoder neither prefills nor generates.

        Raises:
            ArgumentError: If there are no token ids.
        """
        del message_targets
        if input_ids is None:
            raise ArgumentError("input_ids must be given; embeddings go to invoke_from_embeds.")
        return self.invoke_from_embeds(self.embedding_matrix[input_ids], **kwargs)

    def invoke_from_embeds(
        self,
        input_embeds: Float[Tensor, "batch pos d_model"],
        *,
        count_backward: bool = False,
        **options: Any,
    ) -> ModelOutput:
        """Encode embeddings.

        Args:
            input_embeds: Of shape (batch, pos, d_model).
            count_backward: Whether a backward pass will follow.
            **options: What a loss asks of a forward pass; an encoder can do none of it.
        """
        batch, n_pos = input_embeds.shape[:2]
        vectors = self._model(input_embeds, torch.full((batch,), n_pos))
        self._update_invoke_stats(
            n_tokens=batch * n_pos, n_samples=batch, count_backward=count_backward
        )
        return ModelOutput(output_embeddings=vectors)
