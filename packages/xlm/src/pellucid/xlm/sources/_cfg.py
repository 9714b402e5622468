"""Sentences of small context-free grammars."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import tokenize_text
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._grammar import Grammar
from pellucid.xlm.sources._source import LocalSource, Proposal

GRAMMARS: Mapping[str, Grammar] = {
    "brackets": Grammar(
        """
        text -> group 2 | group text 1
        group -> ( ) | [ ] | { } | ( text ) | [ text ] | { text }
        """
    ),
    "arithmetic": Grammar(
        """
        sum -> product 2 | product plus sum 1
        product -> factor 2 | factor times product 1
        factor -> digit 3 | ( sum ) 1
        plus -> + | -
        times -> * | /
        digit -> a | b | c | d
        """
    ),
    "sentences": Grammar(
        """
        sentence -> subject verb object
        subject -> noun 3 | noun that verb noun 1
        object -> noun 3 | noun that verb noun 1
        noun -> the thing 2 | the quality thing 1
        thing -> fox | owl | bear | crow | hare | wolf
        quality -> old | small | quick | wise
        verb -> sees | follows | fears | helps | hears
        """
    ),
}
"""The grammars of `local://cfg`."""


@dataclass(frozen=True, kw_only=True)
class GrammarSource(LocalSource):
    """`local://cfg`: sentences of a grammar.

    Attributes:
        grammar: One of `GRAMMARS`.
        max_length: Most words of a sentence.
    """

    grammar: str = "brackets"
    max_length: int = 32

    name: ClassVar[str] = "cfg"
    preprocess_function: ClassVar[Callable[..., Any]] = tokenize_text

    def _check(self) -> None:
        if self.grammar not in GRAMMARS:
            raise UnknownNameError("grammar", self.grammar, GRAMMARS)
        if self.max_length < 1:
            raise ArgumentError(f"max_length is {self.max_length!r}; a sentence has words")

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw sentences."""
        drawn = GRAMMARS[self.grammar].sample(rng, n_rows, max_length=self.max_length)
        texts = [" ".join(words) for words in drawn]
        digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
        contents = np.frombuffer(digests, dtype=np.uint64)
        return Proposal(contents, lambda rows: {"text": [texts[row] for row in rows.tolist()]})

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of the words of the grammar."""
        return SimpleSpaceTokenizer(GRAMMARS[self.grammar].words)
