"""From what `--model` says to a model."""

import contextlib
import os
import re
from collections.abc import Generator
from pathlib import Path

from pellucid.core import (
    ArgumentError,
    BaseModel,
    MissingDependencyError,
    UnknownNameError,
    load,
    names,
)

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][\w-]+):(?P<name>.*)", re.DOTALL)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SCHEMES = ("litellm", "zoo")


def load_model(spec: str, base_url: str | None = None) -> BaseModel:
    """Return the model that a text stands for.

    Args:
        spec: `zoo:NAME`, `litellm:PROVIDER/NAME`, a directory, or a name on the Hugging Face hub.
        base_url: Address of the server; for `litellm:` only.

    Raises:
        ArgumentError: If there is no such model, it cannot be read, or `base_url` has no meaning.
        UnknownNameError: If the zoo has no model of this name, or the prefix is unknown.
        MissingDependencyError: If the package that holds the backend is not installed.
    """
    if not spec:
        raise ArgumentError(f"--model '' names no model. Name a directory, {_others()}.")
    match = None if Path(spec).exists() else _SCHEME.fullmatch(spec)
    scheme = match["scheme"] if match else None
    if scheme == "litellm" and match:
        return _load_remote(match["name"], base_url)
    if base_url is not None:
        raise ArgumentError(
            f"--base-url {base_url!r} has a meaning for models behind a server only, "
            f"got --model {spec!r}. Leave it out, or name a model as litellm:PROVIDER/NAME."
        )
    if scheme == "zoo" and match:
        return _load_from_zoo(match["name"])
    if scheme is not None:
        raise UnknownNameError("model prefix", scheme, _SCHEMES)
    return _load_from_disk_or_hub(spec)


def _load_remote(name: str, base_url: str | None) -> BaseModel:
    if "litellm" not in names("pellucid.models"):
        raise MissingDependencyError(
            f"the model 'litellm:{name}' needs the package pellucid-api, which is not installed. "
            "Install it with: pip install pellucid-api"
        )
    if not name:
        raise ArgumentError("'litellm:' names no model. Write litellm:PROVIDER/NAME.")
    return load("pellucid.models", "litellm")(name, base_url=base_url)


def _load_from_zoo(name: str) -> BaseModel:
    from pellucid import zoo  # noqa: PLC0415 - it imports transformers
    from pellucid.hf import LMHFModel  # noqa: PLC0415 - it imports transformers

    model, tokenizer = zoo.load(name)
    return LMHFModel(loaded_model=model, tokenizer=tokenizer)


def _load_from_disk_or_hub(spec: str) -> BaseModel:
    path = Path(spec).expanduser()
    if path.exists():
        _check_folder(path)
    elif _looks_like_path(spec):
        raise ArgumentError(f"there is no model at {spec!r}. Name a directory, {_others()}.")
    from pellucid.hf import LMHFModel  # noqa: PLC0415 - it imports transformers

    try:
        with _quiet_loading():
            return LMHFModel(str(path) if path.exists() else spec)
    except OSError as error:
        advice = f"Name a directory that transformers can load, {_others(spec)}."
        raise ArgumentError(f"cannot load the model {spec!r}: {_brief(error)} {advice}") from error


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ArgumentError(
            f"the model path {str(path)!r} is not a directory. Name the directory that holds the "
            "model's config.json."
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise ArgumentError(f"the model directory {str(path)!r} cannot be read. Allow it.")
    if not (path / "config.json").is_file():
        raise ArgumentError(
            f"the directory {str(path)!r} holds no config.json, so it is not a model that "
            "transformers has saved. Save one there with save_pretrained."
        )


def _looks_like_path(spec: str) -> bool:
    return spec.startswith(("/", ".", "~")) or _HUB_NAME.fullmatch(spec) is None


def _others(spec: str = "") -> str:
    from pellucid import zoo  # noqa: PLC0415 - it imports transformers

    known = zoo.names()
    meant = [name for name in known if name == spec] or known
    return f"a model of the zoo ({', '.join(f'zoo:{name}' for name in meant)}) or a hub's name"


def _brief(error: OSError) -> str:
    """Return the first sentence of what transformers said, which writes several lines."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first if first.endswith((".", "!")) else f"{first}."


@contextlib.contextmanager
def _quiet_loading() -> Generator[None]:
    """Keep transformers from drawing its own progress bar beside ours."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
