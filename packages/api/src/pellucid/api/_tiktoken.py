"""The tokenizers of OpenAI's models."""

import base64
import binascii
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pellucid.api._extras import import_extra
from pellucid.core import ArgumentError, BaseTokenizer

TensorKind = Literal["list", "pt", "np"]

_FALLBACK = "cl100k_base"
_BROKEN = "\ufffd".encode()
_END = "<|endoftext|>"
# How cl100k_base cuts a text into pieces before it merges bytes.
_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


class OpenAITokenizer(BaseTokenizer):
    """A byte-pair tokenizer by tiktoken: that of a model, or one from a file on this machine.

    Nothing is loaded before it is first used. A model's ranks are then fetched by tiktoken, unless
    it has them in its own cache; a rank file needs no network.

    Args:
        model_name: A model of OpenAI's; one that tiktoken does not know has the ranks of
            `cl100k_base`. That is what is used when neither is given.
        rank_file: A file of ranks as tiktoken writes them, one token and its rank a line; texts are
            cut into pieces as for `cl100k_base`, and a token that ends texts is added behind the
            last rank.

    Raises:
        ArgumentError: (a ValueError) If both are given, or there is no such file.
    """

    def __init__(
        self, model_name: str | None = None, rank_file: str | os.PathLike[str] | None = None
    ) -> None:
        if model_name is not None and rank_file is not None:
            raise ArgumentError(
                f"a tokenizer is that of a model or that of a file, got {model_name!r} and "
                f"{str(rank_file)!r}. Give one of them."
            )
        self._model_name = model_name
        self._rank_file = None if rank_file is None else Path(rank_file).expanduser()
        if self._rank_file is not None and not self._rank_file.is_file():
            raise ArgumentError(f"there is no rank file at {str(self._rank_file)!r}.")
        self._loaded: Any = None

    @property
    def _encoding(self) -> Any:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Any:
        tiktoken = import_extra("tiktoken", extra="openai")
        if self._rank_file is not None:
            ranks = _read_ranks(self._rank_file)
            return tiktoken.Encoding(
                f"file-{_fingerprint(self._rank_file)}",
                pat_str=_PATTERN,
                mergeable_ranks=ranks,
                special_tokens={_END: max(ranks.values()) + 1},
            )
        return tiktoken.get_encoding(_encoding_name(tiktoken, self._model_name))

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id; a few ids below it may be no token's."""
        return self._encoding.max_token_value + 1

    @property
    def name_or_path(self) -> str:
        """`openai-` and the name of the encoding."""
        return f"openai-{self._encoding.name}"

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all special tokens, and those that are no token's: neither goes into a trigger."""
        return list(self._special_ids)

    @functools.cached_property
    def _special_ids(self) -> tuple[int, ...]:
        known = set(self._encoding._mergeable_ranks.values())
        return tuple(i for i in range(self.vocab_size) if i not in known)

    @functools.cached_property
    def _absent_ids(self) -> frozenset[int]:
        known = set(self._encoding._special_tokens.values())
        return frozenset(self._special_ids) - known

    def __call__(
        self, texts: list[str], return_tensors: TensorKind = "list", **kwargs: Any
    ) -> Mapping[str, Any]:
        """Encode texts without special tokens; shorter rows of a tensor are filled up at their end.

        Args:
            texts: The texts.
            return_tensors: "list", "pt" or "np".
            **kwargs: `add_special_tokens` is known, and changes nothing: there are none to add.

        Raises:
            ArgumentError: (a ValueError) If `texts` is a single text, or an argument is unknown.
        """
        if isinstance(texts, str):
            raise ArgumentError(f"texts must be a list, got {texts!r}. Pass [text].")
        unknown = sorted(set(kwargs) - {"add_special_tokens"})
        if unknown or return_tensors not in ("list", "pt", "np"):
            raise ArgumentError(
                f"unknown arguments {unknown!r}, return_tensors={return_tensors!r}."
            )
        rows = self.batch_encode(texts)
        if return_tensors == "list":
            return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        longest = max((len(row) for row in rows), default=0)
        pad = self._encoding.eot_token
        ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        make = torch.tensor if return_tensors == "pt" else np.array
        return {"input_ids": make(ids), "attention_mask": make(mask)}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; what spells a special token is plain text."""
        return self._encoding.encode_ordinary(text)

    def batch_encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included.

        Broken characters, and ids within the vocabulary that are no token's, read as U+FFFD.

        Raises:
            KeyError: If an id is not within the vocabulary.
        """
        absent = self._absent_ids
        parts = [
            _BROKEN if i in absent else self._encoding.decode_single_token_bytes(i)
            for i in map(int, ids)
        ]
        return b"".join(parts).decode("utf-8", "replace")

    def batch_decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of token ids."""
        return [self.decode(row) for row in ids]


def _encoding_name(tiktoken: Any, model_name: str | None) -> str:
    if model_name is None:
        return _FALLBACK
    try:
        return tiktoken.encoding_name_for_model(model_name)
    except KeyError:
        return _FALLBACK


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise ArgumentError(
            f"{str(path)!r} is no rank file: {error}. Each line holds a token in base64 and its "
            "rank."
        ) from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ArgumentError(
            f"the rank file {str(path)!r} has no token for {len(missing)} of the 256 bytes, so not "
            "every text can be encoded. Train it on bytes."
        )
    return ranks


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
