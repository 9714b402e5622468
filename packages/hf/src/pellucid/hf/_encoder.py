"""Text encoders of transformers: one vector for each text."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from pellucid.core import (
    EncoderBaseModel,
    Flow,
    LossTextAccessMixin,
    ModelOutput,
    Provides,
    RequirementError,
)
from pellucid.hf._codec import TextCodec
from pellucid.hf._loading import (
    check_batch_sizes,
    check_fit,
    name_of,
    resolve_model,
    resolve_tokenizer,
)
from pellucid.hf._pooling import Pooling, check_pooling, pool
from pellucid.hf._reading import ReadingBackend
from pellucid.hf._rendering import PromptRenderer
from pellucid.hf._trigger_codec import check_consistency


class EncoderHFModel(ReadingBackend, EncoderBaseModel, LossTextAccessMixin):  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
    """An encoder of transformers, its hidden states pooled to one vector for each text.

    Texts are read as they are, within the special tokens that the tokenizer adds by default. As
    with `LMHFModel`, neither model nor tokenizer is changed, and both flows agree wherever
    `retokenization_mask` is true.

    Args:
        model_name: A name, a path, or a model object.
        device: Where to load the model to; CUDA if there is one, else the CPU, when omitted.
        dtype: What to load the weights as; as they are saved when omitted.
        pooling: "mean" over all tokens, the "cls" state of the first, or the "last" token's.
        normalize: Whether to bring each vector to length 1.
        forward_pass_batch_size: How many candidates go through one forward pass; halved when memory
            runs out.
        backward_pass_batch_size: The same for passes with a gradient.
        set_model_to_train: Whether to compute in training mode.
        loaded_model: A model object.
        tokenizer: A fast tokenizer, or the name of one; that of `model_name` when omitted.
        consistency: What `retokenization_mask` demands, see `LMHFModel`.
        **model_kwargs: Passed to `from_pretrained`.

    Raises:
        ArgumentError: (a ValueError) If no model or no tokenizer is given, if the two do not belong
            together, or if an argument has no meaning beside the others.
        RequirementError: (a TypeError) If the model takes no embeddings, is one of encoder and
            decoder, or the tokenizer is slow.
        ModelLoadError: (an OSError) If nothing can be loaded from the name or path.
    """

    provides: Provides | None = {  # noqa: RUF012 - never changed
        Flow.TEXTS: {"output_embeddings": ()},
        Flow.TOKENS: {"output_embeddings": (), "input_slices": (), "input_ids": ()},
        Flow.EMBEDS: {"output_embeddings": (), "input_slices": (), "input_embeds": ()},
    }

    def __init__(
        self,
        model_name: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        pooling: str = "mean",
        normalize: bool = False,
        forward_pass_batch_size: int = 512,
        backward_pass_batch_size: int = 28,
        set_model_to_train: bool = False,
        loaded_model: Any = None,
        tokenizer: Any = None,
        consistency: str = "full",
        **model_kwargs: Any,
    ) -> None:
        check_batch_sizes(forward_pass_batch_size, backward_pass_batch_size)
        self._pooling: Pooling = check_pooling(pooling)
        self._normalize = normalize
        self._consistency = check_consistency(consistency)
        self._model = resolve_model(
            AutoModel,
            model_name,
            loaded_model,
            device=device,
            dtype=dtype,
            model_kwargs=model_kwargs,
        )
        self._tokenizer = resolve_tokenizer(model_name, tokenizer, self._model, model_kwargs)
        check_fit(self._model, self._tokenizer)
        _check_encoder(self._model)
        self._model_name = model_name if isinstance(model_name, str) else name_of(self._model)
        self._embedding_layer = self._model.get_input_embeddings()
        self._forward_pass_batch_size = forward_pass_batch_size
        self._backward_pass_batch_size = backward_pass_batch_size
        self._set_model_to_train = set_model_to_train
        self._codec = TextCodec(self._tokenizer)
        self._renderer = PromptRenderer(self._tokenizer, use_chat_template=False)

    @property
    def d_model(self) -> int:
        """The width of the vectors."""
        return int(self._model.config.get_text_config().hidden_size)

    def _read(self, given: Tensor, mask: Tensor | None) -> ModelOutput:
        name = "input_ids" if given.ndim == 2 else "inputs_embeds"
        shown = {} if mask is None else {"attention_mask": mask}
        states = self._model(**{name: given}, **shown).last_hidden_state
        vectors = pool(states, mask, self._pooling, unit_length=self._normalize)
        return ModelOutput(output_embeddings=vectors)


def _check_encoder(model: Any) -> None:
    if model.config.is_encoder_decoder:
        raise RequirementError(
            f"{type(model).__name__} is an encoder and a decoder. Pass its encoder alone as "
            "loaded_model, such as T5EncoderModel.from_pretrained(...)."
        )
