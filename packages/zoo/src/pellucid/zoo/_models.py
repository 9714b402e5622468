"""The stored models: their names, their files, and how they are loaded."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from pellucid.core import UnknownNameError

_FOLDER = Path(__file__).parent / "models"


def names() -> tuple[str, ...]:
    """Names of the models in the zoo, sorted."""
    return tuple(sorted(config.parent.name for config in _FOLDER.glob("*/config.json")))


def path(name: str) -> Path:
    """Folder with the files of a model.

    It can be given to every ``from_pretrained`` of transformers.

    Args:
        name: One of `names`.

    Raises:
        UnknownNameError: There is no such model.
    """
    if name not in names():
        raise UnknownNameError("zoo model", name, names())
    return _FOLDER / name


def load(name: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A trained model and its tokenizer, read from the installed package.

    Every call returns new objects, so that what one caller does to them concerns no other. Global
    random states are left as they were.

    Args:
        name: One of `names`.

    Returns:
        The model, float32 on the CPU and in evaluation mode, and the tokenizer, with chat template
        and padding on the left.

    Raises:
        UnknownNameError: There is no such model.
    """
    folder = path(name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return _load_model(folder), tokenizer


def _load_model(folder: Path) -> LlamaForCausalLM:
    # LlamaForCausalLM.from_pretrained would write a progress bar, and only a global switch of
    # transformers keeps it from that. The constructor draws weights that are overwritten here.
    config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = LlamaForCausalLM(config).float()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()
