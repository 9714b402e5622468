"""From a text such as `zoo:tiny-chat` to the model and the tokenizer that it names."""

from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from pellucid.core import ArgumentError, find_model_source, names

_SOURCES = "pellucid.model_sources"


def load_base_model(spec: str) -> tuple[Any, Any]:
    """Return the model that a text names, and its tokenizer.

    Args:
        spec: A directory, a name on the Hugging Face hub, or `SOURCE:NAME` with a source that a
            package registers in `pellucid.model_sources`, such as `zoo:tiny-chat`.

    Returns:
        A causal language model in eval mode, and a tokenizer.

    Raises:
        UnknownNameError: (a ValueError) If there is no such source, or it has no such model.
        ArgumentError: (a ValueError) If there is no such model, or it cannot be read.
    """
    found = find_model_source(spec)
    if found is not None:
        source, name = found
        return source.load(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec)
        return AutoModelForCausalLM.from_pretrained(spec).eval(), tokenizer
    except (OSError, ValueError, KeyError) as error:
        raise ArgumentError(
            f"{spec!r} is no causal language model that can be read: {error} Give a directory that "
            "save_pretrained wrote with model and tokenizer, a name on the Hugging Face hub, or "
            f"{_examples()}."
        ) from error


def _examples() -> str:
    return ", ".join(f"{source}:NAME" for source in names(_SOURCES)) or "install pellucid-zoo"
