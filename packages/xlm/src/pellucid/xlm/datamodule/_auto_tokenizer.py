"""Tokenizers of transformers, with the special tokens that families ask for."""

import importlib
from collections.abc import Mapping
from typing import Any

from pellucid.core import ArgumentError, MissingDependencyError
from pellucid.xlm._space_tokenizer import SPECIAL_ROLES, check_special_tokens


def load_auto_tokenizer(
    pretrained_model_name_or_path: str,
    special_tokens: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    """Load a tokenizer of transformers and give it the special tokens that it lacks.

    Args:
        pretrained_model_name_or_path: A directory, or a name on the hub.
        special_tokens: Such as `{"mask_token": "[MASK]"}`. A role that the tokenizer has already
            is set to what is given here; a role that it lacks and that is not given here becomes
            "[ROLE]".
        **kwargs: Handed to `AutoTokenizer.from_pretrained`.

    Returns:
        The tokenizer, with `full_vocab_size`.

    Raises:
        MissingDependencyError: transformers is not installed.
        ArgumentError: There is no such special token.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "load_auto_tokenizer needs transformers. pip install 'pellucid-xlm[transformers]'"
        ) from error
    given = dict(special_tokens or {})
    known = {f"{role}_token" for role in SPECIAL_ROLES}
    if given.keys() - known:
        raise ArgumentError(
            f"special_tokens holds {sorted(given.keys() - known)!r}; there are {sorted(known)!r}"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
    for role in SPECIAL_ROLES:
        if getattr(tokenizer, f"{role}_token", None) is None:
            given.setdefault(f"{role}_token", f"[{role.upper()}]")
    if given:
        tokenizer.add_special_tokens(given)
    check_special_tokens(tokenizer)
    tokenizer.full_vocab_size = len(tokenizer)
    return tokenizer
