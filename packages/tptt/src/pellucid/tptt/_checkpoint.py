"""Weights of converted models in files, under the names that several programs gave them."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from pellucid.core import CheckpointError

_LOGGER = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"

_PREFIX = re.compile(r"^(?:(?:base_model|tptt_model|backbone)\.)*(?:model\.(?=model\.|lm_head))?")


def load_tptt_safetensors(
    repo_or_path: str, model: Any, token: str | None = None, *, subfolder: str = ""
) -> Any:
    """Load weights, of adapters or of all modules, whatever prefixes their names were saved under.

    What is missing and what is unexpected is logged as a warning.

    Args:
        repo_or_path: A directory, or the name of a repository.
        model: What to load into.
        token: For private repositories.
        subfolder: Where in it the files are.

    Returns:
        The model; None if there are no weights.
    """
    for name in (ADAPTER, WEIGHTS):
        path = find_file(repo_or_path, name, subfolder=subfolder, token=token)
        if path is not None:
            missing, unexpected = load_weights(path, model)
            lora = [name for name in missing if "lora_" in name]
            if lora:
                _LOGGER.warning("Missing weights of adapters: %s", ", ".join(lora))
            if unexpected:
                _LOGGER.warning("Unexpected keys: %s", ", ".join(unexpected))
            return model
    return None


def find_file(place: str, name: str, *, subfolder: str = "", **options: Any) -> Path | None:
    """Return where a file of a directory or a repository lies; None if it has no such file."""
    if Path(place).is_dir():
        path = Path(place, subfolder, name)
        return path if path.is_file() else None
    found = cached_file(
        place,
        name,
        subfolder=subfolder,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
        **options,
    )
    return None if found is None else Path(found)


def load_weights(path: Path, model: nn.Module) -> tuple[list[str], list[str]]:
    """Load a file's weights by name, cast to what they are loaded into.

    Returns:
        The names of the model's that the file lacks, and of the file's that the model lacks.

    Raises:
        CheckpointError: (a ValueError) If a weight is of another shape.
    """
    saved = {canonical_name(name): value for name, value in load_file(path).items()}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    by_name = {canonical_name(name): value for name, value in own.items()}
    wrong = [
        f"{name} ({tuple(saved[name].shape)!r}, here {tuple(value.shape)!r})"
        for name, value in by_name.items()
        if name in saved and saved[name].shape != value.shape
    ]
    if wrong:
        raise CheckpointError(f"{str(path)!r} holds weights of other shapes: {', '.join(wrong)}.")
    with torch.no_grad():
        for name, value in by_name.items():
            if name in saved:
                value.copy_(saved[name])
    kept = {canonical_name(name) for name in model.state_dict()}
    missing = [name for name in by_name if name not in saved and name in kept]
    return missing, [name for name in saved if name not in by_name]


def canonical_name(name: str) -> str:
    """Return a weight's name without what wrappers add to it."""
    name = _PREFIX.sub("", name)
    for segment in (".base_attn", ".base_layer", ".default"):
        name = name.replace(f"{segment}.", ".")
    return name


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights to a file, those that are one and the same under their first name."""
    save_file(dict(_without_doubles(weights.items())), path, metadata={"format": "pt"})


def save_tptt_safetensors(model: Any, path: str, name: str = ADAPTER) -> None:
    """Write the weights of a model's adapters, or all of them if it has none."""
    Path(path).mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    adapters = {key: value for key, value in weights.items() if "lora_" in key}
    save_weights(adapters or weights, Path(path, name))


def _without_doubles(weights: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    seen: set[tuple[int, torch.Size]] = set()
    kept: list[tuple[str, Tensor]] = []
    for name, value in weights:
        key = (value.data_ptr(), value.shape)
        if key not in seen or value.data_ptr() == 0:
            seen.add(key)
            kept.append((name, value.contiguous()))
    return kept
