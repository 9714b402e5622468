"""Text encoders: one vector for each text, by transformers or by sentence-transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from pellucid.core import (
    ArgumentError,
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
    check_nothing_to_load,
    max_positions,
    name_of,
    resolve_model,
    resolve_tokenizer,
)
from pellucid.hf._pipeline import (
    SentencePipeline,
    choose_prompt,
    find_pipeline,
    is_saved_pipeline,
    load_pipeline,
)
from pellucid.hf._pooling import Pooling, check_pooling, pool
from pellucid.hf._reading import ReadingBackend
from pellucid.hf._rendering import PromptRenderer
from pellucid.hf._trigger_codec import check_consistency


class EncoderHFModel(ReadingBackend, EncoderBaseModel, LossTextAccessMixin):  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
    """An encoder: hidden states of a transformer, pooled to one vector for each text.

    A pipeline of sentence-transformers is run as a whole, with the pooling and the further modules
    that it brings, and gives the vectors of `SentenceTransformer.encode`. Of any other model of
    transformers the hidden states are pooled as `pooling` says.

    Texts are read as they are, after the prompt if there is one, within the special tokens that the
    tokenizer adds by default; none is cut off. As with `LMHFModel`, neither model nor tokenizer is
    changed, and both flows agree wherever `retokenization_mask` is true.

    Args:
        model_name: A name, a path, a model object, or a `SentenceTransformer`.
        device: Where to load the model to; CUDA if there is one, else the CPU, when omitted.
        dtype: What to load the weights as; as they are saved when omitted.
        pooling: "mean" over all tokens, the "cls" state of the first, or the "last" token's. When
            omitted, that of the pipeline, or "mean" if there is none; given, what is loaded by name
            is loaded without its pipeline.
        normalize: Whether to bring each vector to length 1.
        prompt: A text to put before every input.
        prompt_name: The name of one that the pipeline brings; its default when both are omitted.
        forward_pass_batch_size: How many candidates go through one forward pass; halved when memory
            runs out.
        backward_pass_batch_size: The same for passes with a gradient.
        set_model_to_train: Whether to compute in training mode.
        loaded_model: A model object, or a `SentenceTransformer`.
        tokenizer: A fast tokenizer, or the name of one; that of `model_name` when omitted. A
            pipeline brings its own.
        consistency: What `retokenization_mask` demands, see `LMHFModel`.
        **model_kwargs: Passed to `from_pretrained`.

    Raises:
        ArgumentError: (a ValueError) If no model or no tokenizer is given, if the two do not belong
            together, or if an argument has no meaning beside the others.
        RequirementError: (a TypeError) If the model takes no embeddings, is one of encoder and
            decoder, or the tokenizer is slow; or if a module of the pipeline cannot be run from
            embeddings.
        MissingDependencyError: (an ImportError) If a pipeline is named, and sentence-transformers
            is not installed.
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
        pooling: str | None = None,
        normalize: bool = False,
        prompt: str | None = None,
        prompt_name: str | None = None,
        forward_pass_batch_size: int = 512,
        backward_pass_batch_size: int = 28,
        set_model_to_train: bool = False,
        loaded_model: Any = None,
        tokenizer: Any = None,
        consistency: str = "full",
        **model_kwargs: Any,
    ) -> None:
        check_batch_sizes(forward_pass_batch_size, backward_pass_batch_size)
        kind = check_pooling("mean" if pooling is None else pooling)
        self._consistency = check_consistency(consistency)
        self._forward_pass_batch_size = forward_pass_batch_size
        self._backward_pass_batch_size = backward_pass_batch_size
        self._set_model_to_train = set_model_to_train
        pipeline = find_pipeline(model_name, loaded_model)
        if pipeline is not None:
            check_nothing_to_load(pipeline, device, dtype, model_kwargs)
        elif (
            pooling is None and loaded_model is None and is_saved_pipeline(model_name, model_kwargs)
        ):
            pipeline = load_pipeline(
                model_name, device=device, dtype=dtype, model_kwargs=model_kwargs
            )
        text = choose_prompt(pipeline, prompt, prompt_name)
        if pipeline is not None:
            _check_own(pooling=pooling, tokenizer=tokenizer)
            self._take_pipeline(SentencePipeline(pipeline, text, unit_length=normalize))
        else:
            model = resolve_model(
                AutoModel,
                model_name,
                loaded_model,
                device=device,
                dtype=dtype,
                model_kwargs=model_kwargs,
            )
            self._take_model(model, kind, unit_length=normalize)
            self._tokenizer = resolve_tokenizer(model_name, tokenizer, model, model_kwargs)
        check_fit(self._hf_model, self._tokenizer)
        self._model_name = model_name if isinstance(model_name, str) else name_of(self._hf_model)
        self._embedding_layer = self._hf_model.get_input_embeddings()
        self._codec = TextCodec(self._tokenizer)
        self._renderer = PromptRenderer(self._tokenizer, use_chat_template=False, prompt=text)

    @property
    def d_model(self) -> int:
        """The width of the vectors."""
        return self._d_model

    @property
    def _hf_model(self) -> Any:
        return self._transformer

    @property
    def _max_positions(self) -> int | None:
        limits = [max_positions(self._transformer), getattr(self._model, "max_seq_length", None)]
        return min((limit for limit in limits if limit is not None), default=None)

    def _take_pipeline(self, pipeline: SentencePipeline) -> None:
        self._model = pipeline.pipeline
        self._transformer: Any = pipeline.transformer
        self._tokenizer = pipeline.pipeline.tokenizer
        self._d_model = pipeline.d_model
        self._encode: Callable[[Tensor, Tensor | None], Tensor] = pipeline

    def _take_model(self, model: Any, pooling: Pooling, *, unit_length: bool) -> None:
        _check_encoder(model)
        self._model = self._transformer = model
        self._d_model = int(model.config.get_text_config().hidden_size)

        def encode(given: Tensor, mask: Tensor | None) -> Tensor:
            name = "input_ids" if given.ndim == 2 else "inputs_embeds"
            shown = {} if mask is None else {"attention_mask": mask}
            states = model(**{name: given}, **shown).last_hidden_state
            return pool(states, mask, pooling, unit_length=unit_length)

        self._encode = encode

    def _read(self, given: Tensor, mask: Tensor | None) -> ModelOutput:
        return ModelOutput(output_embeddings=self._encode(given, mask))


def _check_own(**given: Any) -> None:
    """Refuse what a pipeline brings itself."""
    for name, held in given.items():
        if held is not None:
            raise ArgumentError(
                f"{name}={held!r} was given, but a pipeline of sentence-transformers brings its "
                "own. Leave it out, or pass the pipeline's transformer alone as loaded_model."
            )


def _check_encoder(model: Any) -> None:
    if model.config.is_encoder_decoder:
        raise RequirementError(
            f"{type(model).__name__} is an encoder and a decoder. Pass its encoder alone as "
            "loaded_model, such as T5EncoderModel.from_pretrained(...)."
        )
