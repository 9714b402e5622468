"""Gets a model and its tokenizer, from memory or from disk, and checks that they fit."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from pellucid.core import ArgumentError, RequirementError
from pellucid.hf._errors import ModelLoadError
from pellucid.hf._quantization import keep_differentiable

# What tells from_pretrained where to look concerns the tokenizer as well.
PLACE_OPTIONS = ("revision", "trust_remote_code", "token", "cache_dir", "local_files_only")
_PLACED_BY_LOADER = ("device_map", "quantization_config")


def resolve_model(
    auto_class: Any,
    model_name: Any,
    loaded_model: nn.Module | None,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
    model_kwargs: Mapping[str, Any],
) -> Any:
    """Return the caller's model, untouched, or a frozen one loaded by name or path.

    Args:
        auto_class: The class of transformers whose `from_pretrained` loads.
        model_name: A name, a path, or a model.
        loaded_model: A model.
        device: Where to load to; CUDA if there is one, else the CPU, when omitted.
        dtype: What to load the weights as; as they are saved when omitted.
        model_kwargs: Passed to `from_pretrained`.

    Raises:
        ArgumentError: (a ValueError) If neither name nor model is given, or both are models, or a
            model is given along with arguments that only apply to loading, or CUDA is absent.
        ModelLoadError: (an OSError) If it cannot be loaded.
    """
    if isinstance(model_name, nn.Module):
        if loaded_model is not None:
            raise ArgumentError("a model was given twice, as model_name and as loaded_model.")
        model_name, loaded_model = None, model_name
    if loaded_model is not None:
        check_nothing_to_load(loaded_model, device, dtype, model_kwargs)
        return loaded_model
    if not isinstance(model_name, str):
        raise ArgumentError(
            f"expected the name or path of a model, or a model object, got {model_name!r}."
        )
    return _load(auto_class, model_name, device, dtype, model_kwargs)


def check_nothing_to_load(
    model: nn.Module, device: Any, dtype: Any, model_kwargs: Mapping[str, Any]
) -> None:
    """Refuse arguments that apply to loading beside a model that is loaded.

    Raises:
        ArgumentError: (a ValueError) If there are any that the model does not fulfil already.
    """
    if model_kwargs:
        raise ArgumentError(
            f"{sorted(model_kwargs)!r} apply to loading, but the model is loaded already. "
            "Load it with these arguments, or leave them out."
        )
    if device is not None and not isinstance(device, (str, int, torch.device)):
        raise ArgumentError(
            f"device must be a name or a torch.device, got {type(device).__name__}. "
            "Pass a tokenizer by name: tokenizer=."
        )
    weight = next(model.parameters(), torch.empty(0))
    if device is not None and torch.device(device).type != weight.device.type:
        raise ArgumentError(
            f"device={str(device)!r} was asked for, the model given lies on {str(weight.device)!r} "
            "and is not moved. Move it yourself, or leave device out."
        )
    if dtype is not None and dtype != weight.dtype:
        raise ArgumentError(
            f"dtype={dtype!r} was asked for, the model given is {weight.dtype} and is not "
            "converted. Convert it yourself, or leave dtype out."
        )


def resolve_tokenizer(
    model_name: Any, tokenizer: Any, model: Any, model_kwargs: Mapping[str, Any]
) -> Any:
    """Return the caller's tokenizer, or the one that is saved with the model.

    Raises:
        ArgumentError: (a ValueError) If there is none to be had.
        ModelLoadError: (an OSError) If it cannot be loaded.
    """
    if tokenizer is not None and not isinstance(tokenizer, str):
        return tokenizer
    name = tokenizer or (model_name if isinstance(model_name, str) else None)
    if name is None:
        raise ArgumentError(
            f"a {type(model).__name__} object was given without a tokenizer. "
            "Pass tokenizer=, an object or a name."
        )
    options = {key: model_kwargs[key] for key in PLACE_OPTIONS if key in model_kwargs}
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"no tokenizer can be loaded from {name!r}: {error}") from error


def pick_device(device: torch.device | str | None) -> torch.device:
    """Return where to load to: CUDA if there is one, else the CPU, when nothing is said.

    Raises:
        ArgumentError: (a ValueError) If CUDA is asked for and absent.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"device={str(device)!r}, but there is no CUDA here. Use 'cpu'.")
    return target


def check_fit(model: Any, tokenizer: Any) -> None:
    """Check that a model can be given embeddings, and every id of the tokenizer.

    Raises:
        RequirementError: (a TypeError) If the model takes no embeddings.
        ArgumentError: (a ValueError) If the tokenizer has ids beyond the embedding table.
    """
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise RequirementError(
            f"{type(model).__name__}.forward takes no inputs_embeds, so triggers cannot be given "
            "as embeddings. Use a model that does."
        )
    check_vocabulary(model, tokenizer)


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Check that a model embeds every id of the tokenizer.

    Raises:
        ArgumentError: If the tokenizer has ids beyond the embedding table.
        RequirementError: (a TypeError) If that table is kept elsewhere until the model runs.
    """
    table = model.get_input_embeddings().weight
    if table.device.type == "meta":
        raise RequirementError(
            f"the embedding table of {type(model).__name__} is offloaded, and triggers are given "
            "as its rows. Place it on a device in device_map; what comes after it may be offloaded."
        )
    n_rows = table.shape[0]
    if len(tokenizer) > n_rows:
        raise ArgumentError(
            f"the tokenizer has {len(tokenizer)} ids, the model embeds {n_rows}: they do not "
            "belong together. Use the model's own tokenizer, or model.resize_token_embeddings."
        )


def max_positions(model: Any) -> int | None:
    """Return how many positions a model is made for; None if it sets no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    # Where padding has a row, as in RoBERTa, positions are counted from the one after it.
    padding = getattr(table, "padding_idx", None)
    return limit if padding is None else limit - padding - 1


def check_batch_sizes(*sizes: int) -> None:
    """Refuse batch sizes below 1.

    Raises:
        ArgumentError: (a ValueError) If there is one.
    """
    if min(sizes) < 1:
        raise ArgumentError(f"batch sizes must be at least 1, got {sizes!r}.")


def name_of(model: Any) -> str:
    """Return the name that a model was loaded by, else that of its class."""
    return getattr(model.config, "name_or_path", "") or type(model).__name__


def _load(
    auto_class: Any, name: str, device: Any, dtype: Any, model_kwargs: Mapping[str, Any]
) -> Any:
    target = pick_device(device)
    try:
        model = auto_class.from_pretrained(name, dtype=dtype or "auto", **model_kwargs)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"no model can be loaded from {name!r}: {error}. Give the name of a model or the path "
            "of a folder that save_pretrained wrote."
        ) from error
    if not any(key in model_kwargs for key in _PLACED_BY_LOADER):
        model = model.to(target)
    keep_differentiable(model)
    return model.eval().requires_grad_(False)
