"""Pipelines of sentence-transformers, run from token ids or from embeddings."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from pellucid.core import ArgumentError, MissingDependencyError, RequirementError
from pellucid.hf._codec import TextCodec
from pellucid.hf._errors import ModelLoadError
from pellucid.hf._loading import PLACE_OPTIONS, pick_device

_MODULE_LIST = "modules.json"
# What follows the transformer and reads what it returns, not the ids, which embeddings do not have.
_READERS = frozenset(
    {"CNN", "Dense", "Dropout", "LSTM", "LayerNorm", "Normalize", "Pooling", "WeightedLayerPooling"}
)


class SentencePipeline:
    """Runs the modules of a `SentenceTransformer` on one padded batch.

    Args:
        pipeline: The pipeline; it is not changed.
        prompt: The text that stands before every input, "" if none does.
        unit_length: Whether to bring each vector to length 1, whatever the pipeline does.

    Raises:
        RequirementError: (a TypeError) If it does not begin with a transformer, holds a module that
            reads token ids, or renders texts with a chat template.
    """

    def __init__(self, pipeline: Any, prompt: str, *, unit_length: bool) -> None:
        self.pipeline = pipeline
        self._unit_length = unit_length
        modules = list(pipeline)
        self.transformer: Any = getattr(modules[0], "auto_model", None) if modules else None
        _check_modules(modules, self.transformer)
        self.codec = TextCodec(pipeline.tokenizer)
        self._n_prompt = _count_prompt_tokens(self.codec, prompt) if prompt else 0

    @property
    def d_model(self) -> int:
        """The width of the vectors."""
        if self.pipeline.truncate_dim is not None:
            return int(self.pipeline.truncate_dim)
        width = self.pipeline.get_embedding_dimension()
        return int(width or self.transformer.config.get_text_config().hidden_size)

    def __call__(
        self,
        given: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        mask: Int[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch d_embed"]:
        """Return one vector for each text, as `SentenceTransformer.encode` does.

        Args:
            given: Token ids, or embeddings.
            mask: 0 where a row is padded, on the right; None if no row is.
        """
        features: dict[str, Any] = {"input_ids" if given.ndim == 2 else "inputs_embeds": given}
        if mask is not None:
            features["attention_mask"] = mask
        if self._n_prompt:
            # For pooling that leaves the prompt out.
            features["prompt_length"] = self._n_prompt
        vectors = self.pipeline(features)["sentence_embedding"]
        vectors = vectors[:, : self.pipeline.truncate_dim]
        return normalize(vectors, dim=-1) if self._unit_length else vectors


def find_pipeline(model_name: Any, loaded_model: Any) -> Any:
    """Return the pipeline among a constructor's arguments, or None if there is none."""
    # Who has made a pipeline has imported the module; nobody else need wait for it.
    module = sys.modules.get("sentence_transformers")
    kind = getattr(module, "SentenceTransformer", None)
    given = [held for held in (model_name, loaded_model) if kind and isinstance(held, kind)]
    if len(given) > 1:
        raise ArgumentError("a model was given twice, as model_name and as loaded_model.")
    return given[0] if given else None


def is_saved_pipeline(name: Any, model_kwargs: Mapping[str, Any]) -> bool:
    """Say whether a pipeline is saved under a name or path."""
    if not isinstance(name, str):
        return False
    if Path(name).is_dir():
        return (Path(name) / _MODULE_LIST).is_file()
    options = {key: model_kwargs[key] for key in PLACE_OPTIONS if key in model_kwargs}
    options.pop("trust_remote_code", None)
    try:
        found = cached_file(
            name,
            _MODULE_LIST,
            **options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        # No such model: whoever loads it says so.
        return False
    return found is not None


def load_pipeline(
    name: str,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
    model_kwargs: Mapping[str, Any],
) -> Any:
    """Load a pipeline, frozen.

    Raises:
        ArgumentError: (a ValueError) If CUDA is absent.
        MissingDependencyError: (an ImportError) If sentence-transformers is not installed.
        ModelLoadError: (an OSError) If it cannot be loaded.
    """
    target = pick_device(device)
    try:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            f"{name!r} is a pipeline of sentence-transformers, which is not installed. "
            "pip install 'pellucid-hf[sentence-transformers]', or give pooling= to run its "
            "transformer without it."
        ) from error
    places = {key: model_kwargs[key] for key in PLACE_OPTIONS if key in model_kwargs}
    cache_dir = places.pop("cache_dir", None)
    others = {key: held for key, held in model_kwargs.items() if key not in PLACE_OPTIONS}
    try:
        pipeline = SentenceTransformer(
            name,
            device=str(target),
            cache_folder=None if cache_dir is None else str(cache_dir),
            model_kwargs={"dtype": dtype or "auto", **others},
            **places,
        )
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"no pipeline can be loaded from {name!r}: {error}. Give a path that "
            "SentenceTransformer.save_pretrained wrote."
        ) from error
    return pipeline.eval().requires_grad_(False)


def choose_prompt(pipeline: Any, prompt: str | None, prompt_name: str | None) -> str:
    """Return the text that stands before every input: the one given, named, or the default.

    Raises:
        ArgumentError: (a ValueError) If there is no prompt of that name, or two are given.
    """
    known: dict[str, str] = {} if pipeline is None else dict(pipeline.prompts)
    if prompt is not None and prompt_name is not None:
        raise ArgumentError(f"give prompt or prompt_name, got {prompt!r} and {prompt_name!r}.")
    if prompt is not None:
        return prompt
    name = prompt_name if pipeline is None else prompt_name or pipeline.default_prompt_name
    if name is None:
        return ""
    if name not in known:
        raise ArgumentError(
            f"no prompt is named {name!r}; there are {sorted(known)!r}. Give the text as prompt=."
        )
    return known[name]


def _check_modules(modules: list[nn.Module], transformer: Any) -> None:
    names = [type(module).__name__ for module in modules]
    if not isinstance(transformer, PreTrainedModel):
        raise RequirementError(
            f"a pipeline must begin with a transformer, this one holds {names!r}: there are no "
            "token embeddings to take a gradient at. Use a pipeline that begins with one."
        )
    for module, name in zip(modules[1:], names[1:], strict=True):
        if not _READERS & {parent.__name__ for parent in type(module).__mro__}:
            raise RequirementError(
                f"the module {name} of the pipeline is none of {sorted(_READERS)!r}, so it may "
                "read token ids, which embeddings do not have. Leave it out of the pipeline."
            )
    if "message" in getattr(modules[0], "modality_config", {}):
        raise RequirementError(
            "the pipeline renders texts with its tokenizer's chat template, which no inputs "
            "manager of encoders does. Set the tokenizer's chat_template to None before the "
            "pipeline is made, if texts are to be read as they are."
        )


def _count_prompt_tokens(codec: TextCodec, prompt: str) -> int:
    """Count the tokens before the text proper, special tokens that begin an input included."""
    (ids,) = codec.encode([prompt])
    whole = [*codec.prefix_ids, *ids, *codec.suffix_ids]
    # A special token that ends the input does not stand between the prompt and the text.
    return len(whole) - (whole[-1] in codec.special_ids)
