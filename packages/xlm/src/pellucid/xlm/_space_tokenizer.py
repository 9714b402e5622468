"""A tokenizer whose tokens are the words between spaces, for tasks with a known vocabulary."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pellucid.core import ArgumentError, CheckpointError, RequirementError, UnknownNameError

SPECIAL_ROLES = ("eos", "bos", "cls", "pad", "mask", "sep", "unk")
"""The special tokens that families may ask a tokenizer for."""

_FILE = "simple_space_tokenizer.json"


class TokenizerMixin:
    """What every tokenizer of a run offers beside encoding and decoding."""

    @property
    def full_vocab_size(self) -> int:
        """How many ids there are, special and added tokens included."""
        return len(self)  # type: ignore[arg-type]

    def check_special_tokens(self, roles: Iterable[str] = SPECIAL_ROLES) -> None:
        """Make sure that special tokens exist.

        Raises:
            RequirementError: Some do not.
        """
        check_special_tokens(self, roles)


def check_special_tokens(tokenizer: Any, roles: Iterable[str] = SPECIAL_ROLES) -> None:
    """Make sure that a tokenizer has special tokens.

    Args:
        tokenizer: Anything with `mask_token_id` and so on.
        roles: Some of `SPECIAL_ROLES`.

    Raises:
        RequirementError: Some are missing; the message names them all.
    """
    missing = [role for role in roles if getattr(tokenizer, f"{role}_token_id", None) is None]
    if missing:
        raise RequirementError(
            f"{type(tokenizer).__name__} has no special token for {', '.join(missing)}; add "
            + ", ".join(f"{role}_token='[{role.upper()}]'" for role in missing)
            + " (load_auto_tokenizer takes them as special_tokens)"
        )


class SimpleSpaceTokenizer(TokenizerMixin):
    """Maps words between spaces to ids; a word that is not in the vocabulary is an error.

    The special tokens have the ids PAD 0, CLS 1, MASK 2, EOS 3, BOS 4, SEP 5 and UNK 6; ordinary
    tokens follow from 7 in the order given.

    Args:
        vocab: The ordinary tokens: no duplicates, no spaces, none of the special ones.

    Raises:
        ArgumentError: The vocabulary is not of that kind.
    """

    special_tokens: ClassVar[tuple[str, ...]] = (
        "[PAD]",
        "[CLS]",
        "[MASK]",
        "[EOS]",
        "[BOS]",
        "[SEP]",
        "[UNK]",
    )
    pad_token, cls_token, mask_token, eos_token, bos_token, sep_token, unk_token = special_tokens
    pad_token_id, cls_token_id, mask_token_id, eos_token_id = 0, 1, 2, 3
    bos_token_id, sep_token_id, unk_token_id = 4, 5, 6

    def __init__(self, vocab: Sequence[str]) -> None:
        self._tokens = [*self.special_tokens, *vocab]
        self._ids = {token: id_ for id_, token in enumerate(self._tokens)}
        if len(self._ids) < len(self._tokens):
            repeated = [token for id_, token in enumerate(self._tokens) if self._ids[token] != id_]
            raise ArgumentError(
                f"the tokens {repeated!r} stand twice in the vocabulary, or are special; "
                "give each token once"
            )
        unsplit = [token for token in vocab if token.split() != [token]]
        if unsplit:
            raise ArgumentError(f"the tokens {unsplit!r} are empty or hold spaces; split them")

    @classmethod
    def for_numbers(cls, vocab_size: int) -> "SimpleSpaceTokenizer":
        """Return the tokenizer of the numbers "0" to `str(vocab_size - 1)`."""
        return cls([str(number) for number in range(vocab_size)])

    def __len__(self) -> int:
        return len(self._tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimpleSpaceTokenizer) and other._tokens == self._tokens

    def __hash__(self) -> int:
        return hash(tuple(self._tokens))

    def __repr__(self) -> str:
        return f"SimpleSpaceTokenizer({len(self) - len(self.special_tokens)} ordinary tokens)"

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included."""
        return len(self)

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of the special tokens."""
        return list(range(len(self.special_tokens)))

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, in the order of their ids."""
        return list(self.special_tokens)

    @property
    def fingerprint(self) -> str:
        """A digest that two tokenizers share only if they have the same ids."""
        return hashlib.sha256(json.dumps(self._tokens).encode()).hexdigest()

    def get_vocab(self) -> dict[str, int]:
        """Return every token, special ones included, with its id."""
        return dict(self._ids)

    def tokenize(self, text: str) -> list[str]:
        """Split a text at its spaces."""
        return text.split()

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token, or the list of the ids of several.

        Raises:
            UnknownNameError: (a ValueError) A token is not in the vocabulary.
        """
        try:
            if isinstance(tokens, str):
                return self._ids[tokens]
            return list(map(self._ids.__getitem__, tokens))
        except KeyError as error:
            raise UnknownNameError("token", str(error.args[0]), self._ids) from None

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the token of an id, or the list of the tokens of several.

        Raises:
            ArgumentError: An id is not in the vocabulary.
        """
        if isinstance(ids, int):
            return self.convert_ids_to_tokens([ids])[0]
        return [self._token(id_) for id_ in _as_list(ids)]

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of the words of a text, between CLS and SEP if asked for.

        Raises:
            UnknownNameError: (a ValueError) A word is not in the vocabulary.
        """
        ids = self.convert_tokens_to_ids(text.split())
        return [self.cls_token_id, *ids, self.sep_token_id] if add_special_tokens else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several texts, without special tokens."""
        return [self.convert_tokens_to_ids(text.split()) for text in texts]

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = False
    ) -> dict[str, Any]:
        """Return `input_ids` and an `attention_mask` of ones, for a text or for several."""
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows = [self.encode(one, add_special_tokens) for one in text]
        return {"input_ids": rows, "attention_mask": [[1] * len(ids) for ids in rows]}

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """Return the tokens of ids, with spaces between them.

        Args:
            token_ids: A list or a 1-D tensor or array.
            skip_special_tokens: Leave out the special ones.
        """
        ids = _as_list(token_ids)
        if skip_special_tokens:
            ids = [id_ for id_ in ids if id_ >= len(self.special_tokens)]
        return " ".join(self.convert_ids_to_tokens(ids))

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """Decode each row of a list, a tensor or an array."""
        return [self.decode(row, skip_special_tokens) for row in _as_list(sequences)]

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> Path:
        """Write the vocabulary to a directory, which is made, and return the file."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / _FILE
        vocab = self._tokens[len(self.special_tokens) :]
        path.write_text(json.dumps({"vocab": vocab}, ensure_ascii=False), encoding="utf-8")
        return path

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> "SimpleSpaceTokenizer":
        """Read what `save_pretrained` wrote.

        Raises:
            CheckpointError: There is no vocabulary in the directory, or it cannot be read.
        """
        path = Path(directory) / _FILE
        try:
            vocab = json.loads(path.read_text(encoding="utf-8"))["vocab"]
            return cls(vocab)
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(
                f"there is no readable tokenizer in {os.fspath(directory)!r} "
                f"({type(error).__name__}: {error}); write one with save_pretrained"
            ) from error

    def _token(self, id_: int) -> str:
        if not 0 <= id_ < len(self._tokens):
            raise ArgumentError(f"the id {id_!r} is not in 0 to {len(self._tokens) - 1}")
        return self._tokens[id_]


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)
