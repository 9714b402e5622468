"""A corpus of very short stories whose later sentences depend on the earlier ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pellucid.core import ArgumentError
from pellucid.xlm._preprocessing import tokenize_text
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._source import LocalSource, Proposal, TextColumns, hash_rows

_SLOTS: Mapping[str, tuple[str, ...]] = {
    "name": ("anna", "ben", "clara", "david", "emma", "felix", "grace", "henry"),
    "pet": ("cat", "dog", "goat", "duck", "horse", "rabbit", "hen", "turtle"),
    "colour": ("black", "white", "brown", "grey", "red", "spotted"),
    "home": ("barn", "house", "garden", "shed", "kitchen"),
    "place": ("river", "market", "forest", "school", "hill", "lake"),
    "food": ("bread", "apples", "carrots", "corn", "cheese"),
    "time": ("morning", "evening", "sunday", "summer"),
    "mood": ("happy", "tired", "hungry", "glad", "quiet"),
}
_OPENING = "{name} has a {colour} {pet} ."
_MIDDLE = (
    "the {pet} sleeps in the {home} .",
    "every {time} {name} and the {pet} walk to the {place} .",
    "the {pet} likes {food} best of all .",
    "at the {place} {name} buys {food} for the {pet} .",
    "when it rains the {colour} {pet} stays in the {home} .",
)
_CLOSING = "so {name} is {mood} and the {pet} is {mood} too ."


@dataclass(frozen=True, kw_only=True)
class CorpusSource(LocalSource):
    """`local://corpus`: stories in which who, what and where stay the same from start to end.

    Attributes:
        sentences: How many there are between the first and the last one, 1 to 5.
    """

    sentences: int = 3

    name: ClassVar[str] = "corpus"
    preprocess_function: ClassVar[Callable[..., Any]] = tokenize_text

    def _check(self) -> None:
        if not 1 <= self.sentences <= len(_MIDDLE):
            raise ArgumentError(f"sentences is {self.sentences!r}; give 1 to {len(_MIDDLE)}")

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw what fills each story, and the order of its sentences."""
        counts = [len(words) for words in _SLOTS.values()]
        filling = rng.integers(0, counts, size=(n_rows, len(counts)))
        order = rng.random((n_rows, len(_MIDDLE))).argsort(axis=1)[:, : self.sentences]

        def render(rows: np.ndarray) -> TextColumns:
            chosen = zip(filling[rows].tolist(), order[rows].tolist(), strict=True)
            return {"text": [_tell(words, middle) for words, middle in chosen]}

        return Proposal(hash_rows(np.concatenate([filling, order], axis=1)), render)

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of all words of the corpus."""
        sentences = " ".join([_OPENING, *_MIDDLE, _CLOSING]).split()
        fixed = [word for word in sentences if not word.startswith("{")]
        slots = [word for words in _SLOTS.values() for word in words]
        return SimpleSpaceTokenizer(sorted({*fixed, *slots}))


def _tell(words: list[int], middle: list[int]) -> str:
    filled = {slot: _SLOTS[slot][word] for slot, word in zip(_SLOTS, words, strict=True)}
    told = [_OPENING, *(_MIDDLE[sentence] for sentence in middle), _CLOSING]
    return " ".join(told).format_map(filled)
