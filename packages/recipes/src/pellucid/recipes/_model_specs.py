"""From a text such as `zoo:tiny-chat` to a model: what command line, YAML and Python share."""

import contextlib
import os
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pellucid.core import (
    ArgumentError,
    BaseModel,
    MissingDependencyError,
    UnknownNameError,
    find_model_source,
    load,
    names,
)
from pellucid.recipes._recipe import ModelKind

_SPEC = re.compile(r"(?P<prefix>[A-Za-z][\w-]+):(?P<name>.*)", re.DOTALL)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MODELS = "pellucid.models"
_SOURCES = "pellucid.model_sources"
_REMOTE = "litellm"
_LOCAL = "hf-"
"""Begins the names of backends that load from a directory or the hub."""


def load_model(
    spec: str,
    base_url: str | None = None,
    *,
    kind: ModelKind | str = ModelKind.LANGUAGE_MODEL,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> BaseModel:
    """Return the model that a text stands for.

    Args:
        spec: `SOURCE:NAME`, such as `zoo:tiny-chat`; `BACKEND:NAME`, where the backend is
            registered in `pellucid.models`, such as `hf-encoder:FOLDER` or
            `litellm:PROVIDER/NAME`; a directory; or a name on the Hugging Face hub.
        base_url: Address of the server; for models behind one only.
        kind: The backend of directories and names on the hub.
        options: What the backend is made with beside the name.

    Raises:
        ArgumentError: If there is no such model, it cannot be read, or `base_url` has no meaning.
        UnknownNameError: If a source has no model of this name, or the prefix is unknown.
        MissingDependencyError: If the package that holds the backend is not installed.
    """
    if not spec:
        raise ArgumentError(f"'' names no model. Name a directory, {_others()}.")
    match = None if Path(spec).exists() else _SPEC.fullmatch(spec)
    prefix, name = (match["prefix"], match["name"]) if match else ("", spec)
    if prefix == _REMOTE:
        return _load_remote(name, base_url, options)
    if prefix in names(_MODELS) and not prefix.startswith(_LOCAL):
        where = {} if base_url is None else {"base_url": base_url}
        return load(_MODELS, prefix)(name, **where, **options)
    if base_url is not None:
        raise ArgumentError(
            f"the base URL {base_url!r} has a meaning for models behind a server only, got the "
            f"model {spec!r}. Leave it out, or name a model as litellm:PROVIDER/NAME."
        )
    if prefix in names(_SOURCES) and (found := find_model_source(spec)):
        source, name = found
        model, tokenizer = source.load(name)
        backend = load(_MODELS, ModelKind.LANGUAGE_MODEL)
        return backend(loaded_model=model, tokenizer=tokenizer, **options)
    if prefix and prefix not in names(_MODELS):
        raise UnknownNameError("model prefix", prefix, {_REMOTE, *names(_SOURCES), *names(_MODELS)})
    return _load_from_disk_or_hub(name, prefix or str(kind), options)


def load_tokenizer(spec: str) -> Any:
    """Return the tokenizer of a model that is at hand, of a directory, or of a name on the hub.

    Args:
        spec: As for `load_model`, for local models.

    Raises:
        ArgumentError: If there is none.
        UnknownNameError: If a source has no model of this name.
    """
    if spec.partition(":")[0] in names(_SOURCES) and (found := find_model_source(spec)):
        source, name = found
        return source.load(name)[1]
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    try:
        return AutoTokenizer.from_pretrained(Path(spec).expanduser() if spec else spec)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"no tokenizer can be loaded from {spec!r}. Name a directory or {_others(spec)}."
        ) from error


def _load_remote(name: str, base_url: str | None, options: Mapping[str, Any]) -> BaseModel:
    if _REMOTE not in names(_MODELS):
        raise MissingDependencyError(
            f"the model '{_REMOTE}:{name}' needs the package pellucid-api, which is not "
            "installed. Install it with: pip install pellucid-api"
        )
    if not name:
        raise ArgumentError(f"'{_REMOTE}:' names no model. Write {_REMOTE}:PROVIDER/NAME.")
    return load(_MODELS, _REMOTE)(name, base_url=base_url, **options)


def _load_from_disk_or_hub(spec: str, kind: str, options: Mapping[str, Any]) -> BaseModel:
    path = Path(spec).expanduser()
    if not spec:
        raise ArgumentError(f"'{kind}:' names no model. Name a directory, {_others()}.")
    if path.exists():
        _check_folder(path)
    elif _looks_like_path(spec):
        raise ArgumentError(f"there is no model at {spec!r}. Name a directory, {_others()}.")
    backend = load(_MODELS, kind)
    try:
        with _quiet_loading():
            return backend(str(path) if path.exists() else spec, **options)
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
    known = [
        (prefix, name) for prefix in names(_SOURCES) for name in load(_SOURCES, prefix).names()
    ]
    meant = [(prefix, name) for prefix, name in known if name == spec] or known
    listed = ", ".join(f"{prefix}:{name}" for prefix, name in meant)
    return f"a model that is at hand ({listed}) or a hub's name" if listed else "or a hub's name"


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
