"""Text to token ids and back, in batches, with a private copy of a fast tokenizer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from pellucid.core import HFTokenizerWrapper, RequirementError


class Encoded(NamedTuple):
    """Token ids of one text, and the characters that each of them stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class TextCodec:
    """Encodes and decodes batches without padding, truncation or cleaning up.

    The tokenizer's own state (padding, truncation, special tokens) is neither used nor changed.

    Args:
        tokenizer: A fast tokenizer of transformers.

    Raises:
        RequirementError: (a TypeError) If it is not a fast tokenizer, which alone says what
            characters a token stands for.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise RequirementError(
                f"{type(tokenizer).__name__} is no fast tokenizer of transformers. Load it with "
                "AutoTokenizer, or wrap a tokenizers.Tokenizer in PreTrainedTokenizerFast."
            )
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = backend.encode_special_tokens
        self._special = frozenset(HFTokenizerWrapper(tokenizer).all_special_ids)
        self.unknown_id: int | None = tokenizer.unk_token_id
        self.prefix_ids, self.suffix_ids = _find_wrapping(self._backend)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens, chat control tokens included."""
        return self._special

    @property
    def n_ids(self) -> int:
        """The number of token ids, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens around it."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Return each text's token ids with their offsets, counted in characters."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [Encoded(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, rows: Sequence[Sequence[int]], *, skip_special: bool = False) -> list[str]:
        """Return the text of each row of token ids."""
        kept = (
            [[i for i in row if i not in self._special] for row in rows] if skip_special else rows
        )
        return self._backend.decode_batch([list(row) for row in kept], skip_special_tokens=False)


def _find_wrapping(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text by default."""
    encoding = backend.encode("a", add_special_tokens=True)
    is_special = encoding.special_tokens_mask
    ids = encoding.ids
    n_before = next((i for i, flag in enumerate(is_special) if not flag), len(ids))
    n_after = next((i for i, flag in enumerate(reversed(is_special)) if not flag), 0)
    return ids[:n_before], ids[len(ids) - n_after :] if n_before < len(ids) else []
