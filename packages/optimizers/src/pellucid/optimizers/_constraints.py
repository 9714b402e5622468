"""Which tokens a trigger may be made of."""

import dataclasses
import re
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.core import ArgumentError, BaseTokenizer, as_tokenizer

_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]", re.IGNORECASE)
_REPLACEMENT_CHARACTER = "\ufffd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenConstraints:
    """Bans tokens that a person could not type, or that mean something else to the model.

    Ids beyond the tokenizer's vocabulary (padded rows of an embedding table), ids that decode to
    nothing and ids that are no text on their own (parts of a multi-byte character) are banned
    always.

    Attributes:
        disallow_non_ascii: Bans tokens that are not printable ASCII text.
        disallow_special_tokens: Bans special tokens, chat control tokens among them.
        disallow_unused_tokens: Bans placeholders such as "[unused12]".
        disallow_custom_token_ids: Further ids to ban.
    """

    disallow_non_ascii: bool = True
    disallow_special_tokens: bool = True
    disallow_unused_tokens: bool = True
    disallow_custom_token_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "disallow_custom_token_ids", tuple(self.disallow_custom_token_ids))

    def get_blacklist_ids(
        self, tokenizer: BaseTokenizer, vocab_size: int | None = None
    ) -> list[int]:
        """Return the banned ids, ascending.

        Args:
            tokenizer: A `BaseTokenizer` or a Hugging Face tokenizer.
            vocab_size: The number of ids that the model knows; the tokenizer's when omitted.
        """
        tokenizer = as_tokenizer(tokenizer)
        n_known = tokenizer.vocab_size
        n_ids = n_known if vocab_size is None else vocab_size
        texts = tokenizer.batch_decode([[i] for i in range(min(n_ids, n_known))])
        banned = {i for i, text in enumerate(texts) if self._bans_text(text)}
        banned.update(range(n_known, n_ids), self.disallow_custom_token_ids)
        if self.disallow_special_tokens:
            banned.update(tokenizer.all_special_ids)
        return sorted(i for i in banned if 0 <= i < n_ids)

    def get_whitelist_ids(
        self, tokenizer: BaseTokenizer, vocab_size: int | None = None
    ) -> Int64[Tensor, " n_allowed"]:
        """Return the admitted ids, int64, ascending, of shape (n_allowed,), on the CPU.

        Args:
            tokenizer: A `BaseTokenizer` or a Hugging Face tokenizer.
            vocab_size: The number of ids that the model knows; the tokenizer's when omitted.

        Raises:
            ArgumentError: If no id is left.
        """
        tokenizer = as_tokenizer(tokenizer)
        banned = set(self.get_blacklist_ids(tokenizer, vocab_size))
        n_ids = tokenizer.vocab_size if vocab_size is None else vocab_size
        allowed = [i for i in range(n_ids) if i not in banned]
        if not allowed:
            raise ArgumentError(
                f"{self!r} admits none of {n_ids} tokens. Relax disallow_non_ascii or shorten "
                "disallow_custom_token_ids."
            )
        return torch.tensor(allowed, dtype=torch.int64)

    def _bans_text(self, text: str) -> bool:
        if not text or _REPLACEMENT_CHARACTER in text:
            return True
        if self.disallow_non_ascii and not (text.isascii() and text.isprintable()):
            return True
        return self.disallow_unused_tokens and _UNUSED.fullmatch(text.strip()) is not None
