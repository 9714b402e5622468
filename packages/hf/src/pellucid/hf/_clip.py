"""The text side of CLIP (Radford et al. 2021, arXiv 2103.00020)."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

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
    check_vocabulary,
    name_of,
    resolve_model,
    resolve_tokenizer,
)
from pellucid.hf._pooling import pool
from pellucid.hf._reading import ReadingBackend
from pellucid.hf._rendering import PromptRenderer
from pellucid.hf._trigger_codec import check_consistency


class CLIPTextEncoderHFModel(ReadingBackend, EncoderBaseModel, LossTextAccessMixin):  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
    """The text encoder of a CLIP model: the state of a text's end token, projected.

    The end token is the one that the tokenizer puts after every text, so that both flows pool at
    the same place; transformers pools at the first end token there is, which differs for triggers
    that hold one, none of which `retokenization_mask` accepts.

    Args:
        model_name: A name, a path, or a model object: `CLIPModel`, `CLIPTextModel` or
            `CLIPTextModelWithProjection`.
        device: Where to load the model to; CUDA if there is one, else the CPU, when omitted.
        dtype: What to load the weights as; as they are saved when omitted.
        without_final_projection: Whether to return the state itself, not its projection to the
            space that texts share with images.
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
        RequirementError: (a TypeError) If the model is no CLIP model, if it has no projection and
            one is wanted, or if the tokenizer is slow or ends texts with no token of their own.
        ModelLoadError: (an OSError) If nothing can be loaded from the name or path.
    """

    provides: Provides | None = {  # noqa: RUF012 - never changed
        Flow.TEXTS: {"output_embeddings": ()},
        Flow.TOKENS: {
            "output_embeddings": (),
            "input_slices": (),
            "input_trigger_slots": (),
            "input_ids": (),
        },
        Flow.EMBEDS: {
            "output_embeddings": (),
            "input_slices": (),
            "input_trigger_slots": (),
            "input_embeds": (),
        },
    }

    def __init__(
        self,
        model_name: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        without_final_projection: bool = False,
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
        self._consistency = check_consistency(consistency)
        self._model = resolve_model(
            CLIPTextModel if without_final_projection else CLIPTextModelWithProjection,
            model_name,
            loaded_model,
            device=device,
            dtype=dtype,
            model_kwargs=model_kwargs,
        )
        self._text_model = _find_text_model(self._model)
        self._projection = _find_projection(self._model, wanted=not without_final_projection)
        self._tokenizer = resolve_tokenizer(model_name, tokenizer, self._model, model_kwargs)
        check_vocabulary(self._text_model, self._tokenizer)
        self._model_name = model_name if isinstance(model_name, str) else name_of(self._model)
        self._embedding_layer = self._text_model.get_input_embeddings()
        self._forward_pass_batch_size = forward_pass_batch_size
        self._backward_pass_batch_size = backward_pass_batch_size
        self._set_model_to_train = set_model_to_train
        self._normalize = normalize
        self._codec = TextCodec(self._tokenizer)
        _check_end(self._codec)
        self._renderer = PromptRenderer(self._tokenizer, use_chat_template=False)

    @property
    def d_model(self) -> int:
        """The width of the vectors."""
        if self._projection is not None:
            return int(self._projection.weight.shape[0])
        return int(self._text_model.config.get_text_config().hidden_size)

    @property
    def _hf_model(self) -> Any:
        return self._text_model

    def _read(self, given: Tensor, mask: Tensor | None) -> ModelOutput:
        states = _run(self._text_model, self._embedding_layer, given, mask)
        vectors = pool(states, mask, "last", unit_length=False)
        if self._projection is not None:
            vectors = self._projection(vectors)
        return ModelOutput(
            output_embeddings=normalize(vectors, dim=-1) if self._normalize else vectors
        )


def _run(
    text_model: Any,
    embedding_layer: nn.Module,
    given: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"] | None,
) -> Float[Tensor, "batch pos d_model"]:
    """Return the final hidden states; CLIP's own forward takes no embeddings."""
    if given.ndim == 2:
        return text_model(input_ids=given, attention_mask=mask).last_hidden_state
    # What stands at their place has no influence but on the pooled state, which is not read.
    ids = torch.zeros(given.shape[:2], dtype=torch.int64, device=given.device)
    with _embedding_replaced(embedding_layer, given):
        return text_model(input_ids=ids, attention_mask=mask).last_hidden_state


@contextmanager
def _embedding_replaced(layer: nn.Module, embeds: Tensor) -> Generator[None]:
    handle = layer.register_forward_hook(lambda _module, _args, _output: embeds)
    try:
        yield
    finally:
        handle.remove()


def _find_text_model(model: Any) -> Any:
    if not isinstance(model, (CLIPModel, CLIPTextModel, CLIPTextModelWithProjection)):
        raise RequirementError(
            f"CLIPTextEncoderHFModel needs a CLIP model with a text side, got "
            f"{type(model).__name__}. Load it with CLIPModel or CLIPTextModelWithProjection."
        )
    return model if isinstance(model, CLIPTextModel) else model.text_model


def _find_projection(model: Any, *, wanted: bool) -> Any:
    found = getattr(model, "text_projection", None)
    if wanted and found is None:
        raise RequirementError(
            f"{type(model).__name__} has no text_projection. Load it with "
            "CLIPTextModelWithProjection, or make the model with without_final_projection=True."
        )
    return found if wanted else None


def _check_end(codec: TextCodec) -> None:
    if len(codec.suffix_ids) != 1:
        raise RequirementError(
            "CLIP reads a text's meaning at its end token, but the tokenizer puts "
            f"{codec.suffix_ids!r} after a text. Use the tokenizer that belongs to the model."
        )
