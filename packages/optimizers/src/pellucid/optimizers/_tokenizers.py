"""Finds what the triggers of an optimizer that works on text are made of."""

from typing import Any

from pellucid.core import (
    BaseModel,
    BaseTokenizer,
    RequirementError,
    Role,
    TokenAccessMixin,
    as_tokenizer,
)

TOKENIZER_ROLE = Role(
    argument="tokenizer",
    access=(TokenAccessMixin,),
    part="any BaseTokenizer or Hugging Face tokenizer",
)
"""What triggers are made of, where it need not be the model's own tokenizer."""


def find_tokenizer(tokenizer: Any, model: BaseModel, *, needed_by: str) -> BaseTokenizer:
    """Return the tokenizer given, else the model's own.

    Args:
        tokenizer: A `BaseTokenizer`, a Hugging Face tokenizer, or None.
        model: Asked only if it offers `TokenAccessMixin`.
        needed_by: The optimizer that the error names.

    Raises:
        RequirementError: If there is none.
    """
    if tokenizer is not None:
        return as_tokenizer(tokenizer)
    if isinstance(model, TokenAccessMixin):
        return as_tokenizer(model.tokenizer)
    raise RequirementError(
        f"{needed_by} makes triggers of tokens, and {model.get_model_name()!r} has no "
        "tokenizer. Pass tokenizer=, any BaseTokenizer or Hugging Face tokenizer."
    )
