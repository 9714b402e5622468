"""What Pellucid asks of a tokenizer, and the adapter for Hugging Face ones."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.core._errors import ArgumentError

TensorKind = Literal["list", "pt", "np"]

_Ids: TypeAlias = Sequence[int] | Tensor | npt.NDArray[np.integer]
_Rows: TypeAlias = Sequence[_Ids] | Tensor | npt.NDArray[np.integer]


class BaseTokenizer(ABC):
    """Text to token ids and back, batched.

    Subclasses give the abstract members; everything about triggers follows from them. Two
    tokenizers are equal when they are the same object, or carry the same name, unless that is
    "unknown".
    """

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of token ids, added tokens included."""

    @property
    @abstractmethod
    def name_or_path(self) -> str:
        """What the tokenizer is known by; "unknown" when it has no name."""

    @abstractmethod
    def __call__(
        self, texts: list[str], return_tensors: TensorKind = "list", **kwargs: Any
    ) -> Mapping[str, Any]:
        """Encode texts; the result holds at least "input_ids"."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens around it."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""

    @abstractmethod
    def batch_decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of token ids, special tokens included."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all special tokens; none unless a subclass says so."""
        return []

    def batch_encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens; override if faster."""
        return [self.encode(text) for text in texts]

    def encode_trigger(self, trigger: str) -> Int64[Tensor, " trigger_pos"]:
        """Return the token ids of a trigger, without special tokens, on the CPU."""
        return torch.tensor(self.encode(trigger), dtype=torch.int64)

    def decode_trigger(self, trigger_ids: _Ids) -> str:
        """Return the text of one trigger's token ids; special tokens are skipped."""
        return self.decode_triggers([_to_list(trigger_ids)])[0]

    def decode_triggers(self, trigger_ids: _Rows) -> list[str]:
        """Return the text of each trigger's token ids; special tokens are skipped."""
        special = set(self.all_special_ids)
        rows = [[i for i in row if i not in special] for row in _to_list(trigger_ids)]
        return self.batch_decode(rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BaseTokenizer):
            return NotImplemented
        is_named = self.name_or_path not in ("", "unknown")
        return self is other or (is_named and self.name_or_path == other.name_or_path)

    def __hash__(self) -> int:
        name = self.name_or_path
        return hash(name) if name not in ("", "unknown") else id(self)


class HFTokenizerWrapper(BaseTokenizer):
    """A Hugging Face tokenizer as a `BaseTokenizer`; the tokenizer itself is never changed.

    Unknown attributes are those of the wrapped tokenizer; two wrappers of one tokenizer are equal.

    Args:
        tokenizer: A transformers `PreTrainedTokenizerBase`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def wrapped(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of token ids, added tokens included."""
        return len(self._tokenizer)

    @property
    def name_or_path(self) -> str:
        """The name the tokenizer was loaded by; "unknown" for one made in memory."""
        return getattr(self._tokenizer, "name_or_path", "") or "unknown"

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all tokens that are marked special, chat control tokens included."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        marked = {i for i, token in added.items() if getattr(token, "special", False)}
        return sorted(marked | set(self._tokenizer.all_special_ids))

    def __call__(
        self, texts: list[str], return_tensors: TensorKind = "list", **kwargs: Any
    ) -> Mapping[str, Any]:
        """Encode texts as the wrapped tokenizer does, special tokens added unless told otherwise.

        Raises:
            ArgumentError: If `texts` is a single text.
        """
        if isinstance(texts, str):
            raise ArgumentError(f"texts must be a list, got {texts!r}. Pass [text].")
        kind = None if return_tensors == "list" else return_tensors
        return self._tokenizer(texts, return_tensors=kind, **kwargs)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens around it."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def batch_encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens around it."""
        if not texts:
            return []
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def decode(self, ids: _Ids) -> str:
        """Return the text of token ids, special tokens included."""
        return self._tokenizer.decode(_to_list(ids), clean_up_tokenization_spaces=False)

    def batch_decode(self, ids: _Rows) -> list[str]:
        """Return the text of each row of token ids, special tokens included."""
        return [self.decode(row) for row in _to_list(ids)]

    def __len__(self) -> int:
        return self.vocab_size

    def __eq__(self, other: object) -> bool:
        is_same = isinstance(other, HFTokenizerWrapper) and other.wrapped is self.wrapped
        return is_same or super().__eq__(other)

    def __hash__(self) -> int:
        named = self.name_or_path != "unknown"
        return super().__hash__() if named else id(self.wrapped)

    def __getattr__(self, name: str) -> Any:
        if name == "_tokenizer":  # unset while unpickling
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


def as_tokenizer(tokenizer: Any) -> BaseTokenizer:
    """Return a `BaseTokenizer` as it is, and wrap anything else as a Hugging Face tokenizer.

    Raises:
        ArgumentError: If the object can neither encode nor decode.
    """
    if isinstance(tokenizer, BaseTokenizer):
        return tokenizer
    if not (callable(tokenizer) and hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
        raise ArgumentError(
            "expected a BaseTokenizer or a Hugging Face tokenizer, got "
            f"{type(tokenizer).__name__}. Subclass pellucid.core.BaseTokenizer to adapt it."
        )
    return HFTokenizerWrapper(tokenizer)


def _to_list(ids: Any) -> Any:
    if isinstance(ids, (Tensor, np.ndarray)):
        return cast("list[Any]", ids.tolist())
    return [_to_list(row) if isinstance(row, (Tensor, np.ndarray)) else row for row in ids]
