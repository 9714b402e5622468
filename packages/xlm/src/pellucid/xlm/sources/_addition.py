"""Addition, digit by digit."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pellucid.core import ArgumentError
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._source import (
    LocalSource,
    Proposal,
    TextColumns,
    hash_rows,
    render_tokens,
)

_WORDS = [*"0123456789", "+", "="]
_PLUS, _EQUALS = 10, 11


@dataclass(frozen=True, kw_only=True)
class AdditionSource(LocalSource):
    """`local://addition`: the prompt is "1 2 + 3 4 =", and the target its sum, "0 4 6".

    No two splits share a pair of summands, in whatever order they stand.

    Attributes:
        digits: Of each summand; the sum has one more.
        reverse: Write the sum with its last digit first, in the order of the carries.
    """

    digits: int = 3
    reverse: bool = False

    name: ClassVar[str] = "addition"

    def _check(self) -> None:
        if not 1 <= self.digits <= 18:
            raise ArgumentError(f"digits is {self.digits!r}; give 1 to 18")

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw summands, all equally likely."""
        summands = rng.integers(0, 10**self.digits, size=(n_rows, 2))

        def render(rows: np.ndarray) -> TextColumns:
            first, second = summands[rows].T
            written = _digits(first + second, self.digits + 1)
            signs = np.broadcast_to([_PLUS, _EQUALS], (len(rows), 2))
            prompt = [
                _digits(first, self.digits),
                signs[:, :1],
                _digits(second, self.digits),
                signs[:, 1:],
            ]
            return {
                "prompt": render_tokens(np.concatenate(prompt, axis=1), _WORDS),
                "target": render_tokens(written[:, ::-1] if self.reverse else written, _WORDS),
            }

        groups = hash_rows(np.sort(summands, axis=1))
        return Proposal(hash_rows(summands), render, groups)

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of digits and signs."""
        return SimpleSpaceTokenizer(_WORDS)


def _digits(numbers: np.ndarray, width: int) -> np.ndarray:
    return numbers[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10
