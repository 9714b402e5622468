"""From a text such as `zoo:tiny-chat` to what has the model at hand."""

import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pellucid.core._errors import RequirementError, UnknownNameError
from pellucid.core._registry import load, names

MODEL_SOURCES = "pellucid.model_sources"
# A single letter before a colon is a drive.
_SPEC = re.compile(r"(?P<prefix>[A-Za-z][\w-]+):(?P<name>.*)", re.DOTALL)


@runtime_checkable
class ModelSource(Protocol):
    """Has causal language models of transformers at hand, by name; the zoo is one.

    Registered in the entry-point group `pellucid.model_sources`; a module will do. What it is
    registered as is the prefix of its models.
    """

    def names(self) -> Any:
        """Return the names of its models."""
        ...

    def load(self, name: str) -> Any:
        """Return a model and its tokenizer."""
        ...


def find_model_source(spec: str) -> tuple[Any, str] | None:
    """Return the source that a text names, and the name within it.

    Args:
        spec: `SOURCE:NAME`, or anything else that names a model.

    Returns:
        The source, a `ModelSource`, and NAME; None for paths, and for texts without a prefix.

    Raises:
        UnknownNameError: (a ValueError) If no source is registered as SOURCE.
        RequirementError: (a TypeError) If what is registered so is no source.
    """
    match = None if Path(spec).exists() else _SPEC.fullmatch(spec)
    if match is None:
        return None
    prefix = match["prefix"]
    if prefix not in names(MODEL_SOURCES):
        raise UnknownNameError("source of models", prefix, names(MODEL_SOURCES))
    source = load(MODEL_SOURCES, prefix)
    if not isinstance(source, ModelSource):
        raise RequirementError(
            f"{prefix!r} is registered in {MODEL_SOURCES!r} as {source!r}, which lacks names() or "
            "load(name). Correct its distribution, or remove it."
        )
    return source, match["name"]
