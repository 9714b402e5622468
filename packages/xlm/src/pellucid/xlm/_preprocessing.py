"""Small functions between a dataset and its collator.

A preprocess function is called once, when a dataset is prepared: `f(example, tokenizer, **kwargs)`
returns the fields of one example. One that is marked `@batched` gets the columns of many examples
and returns columns. A processor is called on each example as it is read.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pellucid.core import ArgumentError, UnknownNameError

Columns = Mapping[str, Sequence[Any]]
_Function = TypeVar("_Function", bound=Callable[..., Any])

ID_FIELDS: Mapping[str, str] = {
    "token_ids": "input_ids",
    "input_token_ids": "input_ids",
    "prompt_token_ids": "prompt_ids",
    "target_token_ids": "target_ids",
}
"""What a preprocess function may call the ids, and what a collator reads."""


def batched(function: _Function) -> _Function:
    """Mark a preprocess function that takes and returns columns."""
    setattr(function, "is_batched", True)  # noqa: B010
    return function


def resolve_callable(function: Callable[..., Any] | str | None) -> Callable[..., Any] | None:
    """Return a function that may be given by its dotted name.

    Raises:
        ArgumentError: There is no such module, or nothing callable of that name in it.
    """
    if function is None or callable(function):
        return function
    module, _, name = function.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(
            f"{function!r} cannot be imported ({error}); write package.module.function"
        ) from error
    if not callable(found):
        raise ArgumentError(f"{function!r} is {type(found).__name__}, which cannot be called")
    return found


@batched
def tokenize_text(columns: Columns, tokenizer: Any, *, text_field: str = "text") -> dict[str, Any]:
    """Encode one text per example, without special tokens."""
    return {"token_ids": encode_texts(tokenizer, _column(columns, text_field))}


@batched
def tokenize_prompt_and_target(
    columns: Columns, tokenizer: Any, *, prompt_field: str = "prompt", target_field: str = "target"
) -> dict[str, Any]:
    """Encode a prompt and its continuation, without special tokens."""
    return {
        "prompt_token_ids": encode_texts(tokenizer, _column(columns, prompt_field)),
        "input_token_ids": encode_texts(tokenizer, _column(columns, target_field)),
    }


@batched
def tokenize_infilling(
    columns: Columns,
    tokenizer: Any,
    *,
    input_field: str = "puzzle",
    target_field: str = "solution",
    blank: str = "0",
) -> dict[str, Any]:
    """Encode a text with gaps and the same text without; gaps become the mask token."""
    mask, gap = tokenizer.mask_token_id, tokenizer.convert_tokens_to_ids(blank)
    rows = encode_texts(tokenizer, _column(columns, input_field))
    return {
        "input_token_ids": [[mask if id_ == gap else id_ for id_ in row] for row in rows],
        "target_token_ids": encode_texts(tokenizer, _column(columns, target_field)),
    }


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts, all at once where the tokenizer can, without special tokens."""
    if hasattr(tokenizer, "encode_batch"):
        return tokenizer.encode_batch(list(texts))
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def token_ids_to_input_ids(example: Mapping[str, Any], tokenizer: Any = None) -> dict[str, Any]:
    """Rename the fields of ids to those that collators read; others stay."""
    del tokenizer
    return {ID_FIELDS.get(name, name): held for name, held in example.items()}


def ids_to_example(example: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Add the text of the ids, for datasets that come tokenised."""
    renamed = token_ids_to_input_ids(example)
    return {**renamed, "text": tokenizer.decode(renamed["input_ids"], skip_special_tokens=True)}


def replicate(columns: Columns, tokenizer: Any = None, *, times: int) -> dict[str, list[Any]]:
    """Repeat every example, next to itself.

    Raises:
        ArgumentError: The number of times is not positive.
    """
    del tokenizer
    if times < 1:
        raise ArgumentError(f"times is {times!r}; an example stands at least once")
    return {name: [cell for cell in held for _ in range(times)] for name, held in columns.items()}


def apply_to_columns(
    function: Callable[..., Any], columns: Columns, tokenizer: Any, **kwargs: Any
) -> Columns:
    """Call a preprocess function, batched or not, on all rows."""
    if getattr(function, "is_batched", False):
        return function(columns, tokenizer, **kwargs)
    names = list(columns)
    made = [
        function(dict(zip(names, cells, strict=True)), tokenizer, **kwargs)
        for cells in zip(*columns.values(), strict=True)
    ]
    if not made:
        return {}
    return {name: [row[name] for row in made] for name in made[0]}


def _column(columns: Columns, name: str) -> Sequence[Any]:
    if name not in columns:
        raise UnknownNameError("column", name, columns)
    return columns[name]
