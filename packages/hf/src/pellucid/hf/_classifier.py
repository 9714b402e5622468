"""Text classifiers of transformers: class logits for each text."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from pellucid.core import (
    ClassifierBaseModel,
    Flow,
    LossTextAccessMixin,
    ModelOutput,
    Provides,
    RequirementError,
)
from pellucid.hf._codec import TextCodec
from pellucid.hf._gradients import wide_dtype
from pellucid.hf._loading import (
    check_batch_sizes,
    check_fit,
    name_of,
    resolve_model,
    resolve_tokenizer,
)
from pellucid.hf._pooling import pool
from pellucid.hf._reading import ReadingBackend
from pellucid.hf._rendering import PromptRenderer
from pellucid.hf._trigger_codec import check_consistency

# Decoders whose heads are of other names than all others'.
_WITHOUT_SCORE = frozenset(
    {"CTRLForSequenceClassification", "ModernBertDecoderForSequenceClassification"}
)


class ClassifierHFModel(ReadingBackend, ClassifierBaseModel, LossTextAccessMixin):  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
    """A classifier of transformers: one logit for each text and class, in float32 or wider.

    It may be an encoder with a head, or a decoder whose `score` reads the state of a text's last
    token: the last that is given, even if a trigger ends in what the model's config calls padding.

    Texts are read as they are, within the special tokens that the tokenizer adds by default. As
    with `LMHFModel`, neither model nor tokenizer is changed, and both flows agree wherever
    `retokenization_mask` is true.

    Args:
        model_name: A name, a path, or a model object.
        device: Where to load the model to; CUDA if there is one, else the CPU, when omitted.
        dtype: What to load the weights as; as they are saved when omitted.
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
        RequirementError: (a TypeError) If the model takes no embeddings, is no classifier, is one
            of encoder and decoder, finds a text's last token in a way of its own, or the tokenizer
            is slow.
        ModelLoadError: (an OSError) If nothing can be loaded from the name or path.
    """

    provides: Provides | None = {  # noqa: RUF012 - never changed
        Flow.TEXTS: {"output_class_logits": ()},
        Flow.TOKENS: {
            "output_class_logits": (),
            "input_slices": (),
            "input_trigger_slots": (),
            "input_ids": (),
        },
        Flow.EMBEDS: {
            "output_class_logits": (),
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
            AutoModelForSequenceClassification,
            model_name,
            loaded_model,
            device=device,
            dtype=dtype,
            model_kwargs=model_kwargs,
        )
        self._tokenizer = resolve_tokenizer(model_name, tokenizer, self._model, model_kwargs)
        _check_classifier(self._model)
        check_fit(self._model, self._tokenizer)
        self._model_name = model_name if isinstance(model_name, str) else name_of(self._model)
        self._embedding_layer = self._model.get_input_embeddings()
        self._forward_pass_batch_size = forward_pass_batch_size
        self._backward_pass_batch_size = backward_pass_batch_size
        self._set_model_to_train = set_model_to_train
        self._codec = TextCodec(self._tokenizer)
        self._renderer = PromptRenderer(self._tokenizer, use_chat_template=False)

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return int(self._model.config.num_labels)

    @property
    def id2label(self) -> dict[int, str]:
        """The name of each class, as the model's config has them."""
        return {int(i): str(name) for i, name in self._model.config.id2label.items()}

    def _read(self, given: Tensor, mask: Tensor | None) -> ModelOutput:
        arguments = {"input_ids" if given.ndim == 2 else "inputs_embeds": given}
        if mask is not None:
            arguments["attention_mask"] = mask
        if _reads_last_token(self._model):
            # The model's own forward takes tokens that look like padding for the end of a text.
            states = self._model.base_model(**arguments).last_hidden_state
            logits = self._model.score(pool(states, mask, "last", unit_length=False))
        else:
            logits = self._model(**arguments).logits
        return ModelOutput(output_class_logits=logits.to(wide_dtype(logits.dtype)))


def _reads_last_token(model: Any) -> bool:
    return hasattr(model, "score")


def _check_classifier(model: Any) -> None:
    name = type(model).__name__
    if not name.endswith("ForSequenceClassification"):
        raise RequirementError(
            f"ClassifierHFModel needs a model that classifies texts, got {name}. "
            "Load it with AutoModelForSequenceClassification."
        )
    if model.config.is_encoder_decoder:
        raise RequirementError(
            f"{name} is an encoder and a decoder, which take no embeddings together. "
            "Use a classifier that is an encoder or a decoder."
        )
    if name in _WITHOUT_SCORE:
        raise RequirementError(
            f"{name} finds a text's last token by its padding, so that a trigger's tokens could be "
            "taken for padding, and has no score to give that token's state to. "
            "Use another classifier."
        )
