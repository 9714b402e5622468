"""A tokenizer of 128 tokens that needs no library."""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pellucid.core import ArgumentError, BaseTokenizer

PAD, BOS, EOS = 0, 1, 2
"""Ids of the special tokens; no text encodes to them."""

_SPECIALS = ("<pad>", "<bos>", "<eos>")
_CHARACTERS = ("\n", *map(chr, range(ord(" "), ord("~") + 1)))
_WORDS = tuple(
    " a| I| the| of| to| is| and| you| yes| no| red| sun| cat| dog| hello| say"
    "|in|er|an|he|on|ing|ed|ll|th|ou|!!|..|  ".split("|")
)


class TinyTokenizer(BaseTokenizer):
    """Printable ASCII and newline, character by character, with a few longer tokens.

    The longest token that fits is taken. So texts survive encoding and decoding exactly, while some
    token ids do not survive decoding and encoding: "t", "h" comes back as "th". That is what makes
    it a stand-in for real tokenizers.

    Args:
        words: Tokens of more than one character.

    Raises:
        ArgumentError: If a word holds characters that are not among the tokens.
    """

    def __init__(self, words: Sequence[str] = _WORDS) -> None:
        for word in words:
            if len(word) < 2 or not set(word) <= set(_CHARACTERS):
                raise ArgumentError(
                    f"a word needs two or more characters of printable ASCII, got {word!r}."
                )
        self._texts = (*_SPECIALS, *_CHARACTERS, *dict.fromkeys(words))
        self._ids = {text: i for i, text in enumerate(self._texts) if i >= len(_SPECIALS)}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        fingerprint = zlib.crc32("\0".join(self._texts).encode())
        self._name = f"tiny-tokenizer-{fingerprint:08x}"

    @property
    def vocab_size(self) -> int:
        """The number of token ids, special ones included."""
        return len(self._texts)

    @property
    def name_or_path(self) -> str:
        """A name that two tokenizers share only if their tokens are the same."""
        return self._name

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of padding, beginning and end."""
        return [PAD, BOS, EOS]

    def __call__(
        self, texts: list[str], return_tensors: str = "list", **kwargs: Any
    ) -> Mapping[str, Any]:
        """Encode texts; rows of a tensor or array are padded on the right.

        Args:
            texts: The texts.
            return_tensors: "list", "pt" or "np".
            **kwargs: Only `add_special_tokens` is known, and changes nothing: none are added.

        Returns:
            "input_ids" and "attention_mask".

        Raises:
            ArgumentError: If `texts` is a single text, or a keyword is unknown.
        """
        unknown = kwargs.keys() - {"add_special_tokens"}
        if isinstance(texts, str) or unknown:
            raise ArgumentError(
                f"expected a list of texts and no {sorted(unknown)!r}, got {texts!r}. Pass [text]."
            )
        rows = self.batch_encode(texts)
        width = max(map(len, rows), default=0) if return_tensors != "list" else 0
        encoded = {
            "input_ids": [row + [PAD] * (width - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        }
        return {name: _convert(held, return_tensors) for name, held in encoded.items()}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Raises:
            ArgumentError: If the text holds anything but printable ASCII and newlines.
        """
        pieces = self._pattern.findall(text)
        if sum(map(len, pieces)) != len(text):
            foreign = sorted(set(text) - set(_CHARACTERS))
            raise ArgumentError(
                f"TinyTokenizer knows printable ASCII and newlines, got {foreign!r} in {text!r}."
            )
        return [self._ids[piece] for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included.

        Ids beyond the vocabulary, such as those of padded embedding rows, have no text.

        Raises:
            ArgumentError: If an id is negative.
        """
        if any(i < 0 for i in ids):
            raise ArgumentError(f"token ids must not be negative, got {list(ids)!r}.")
        return "".join(self._texts[i] for i in ids if i < len(self._texts))

    def batch_decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of token ids, special tokens included."""
        return [self.decode(row) for row in ids]


def _convert(rows: list[list[int]], kind: str) -> Any:
    if kind == "pt":
        return torch.tensor(rows, dtype=torch.int64)
    return np.array(rows, dtype=np.int64) if kind == "np" else rows
