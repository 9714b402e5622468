"""What every generated dataset has in common: splits that share no content, and seeds."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import tokenize_prompt_and_target
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer

SPLITS = ("train", "validation", "test")
"""The splits of every generated dataset; "val" is another name of the second."""

# A row belongs to the split that the hash of its content falls to: [0, 0.10) is test, [0.10, 0.15)
# validation, the rest train. So no seed, size or stream can bring the content of one into another.
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "test": (0.0, 0.10),
    "validation": (0.10, 0.15),
    "train": (0.15, 1.0),
}
_MAX_FRUITLESS = 50
_MAX_PROPOSALS = 1 << 15

TextColumns = dict[str, list[str]]


@dataclass(frozen=True)
class Proposal:
    """Rows that are drawn, but not yet assigned to a split.

    Attributes:
        contents: A hash per row of what stands only once in validation and test, uint64.
        render: Writes the rows of some indices as columns of text.
        groups: A hash per row of what no two splits may share; the contents if None.
    """

    contents: np.ndarray
    render: Callable[[np.ndarray], TextColumns]
    groups: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class LocalSource(ABC):
    """A dataset that is generated from a seed.

    Attributes:
        split: One of `SPLITS`.
        seed: Of the rows that are drawn; not of what they are drawn from.
        size: How many rows; the usual number for the split if None.
        stream: Never end and never repeat, rather than have a size.
    """

    split: str = "train"
    seed: int = 42
    size: int | None = None
    stream: bool = False

    name: ClassVar[str]
    version: ClassVar[int] = 1
    default_sizes: ClassVar[Mapping[str, int]] = {"train": 50_000, "validation": 100, "test": 5_000}
    preprocess_function: ClassVar[Callable[..., Any]] = tokenize_prompt_and_target

    def __post_init__(self) -> None:
        if self.split == "val":
            object.__setattr__(self, "split", "validation")
        if self.split not in SPLITS:
            raise UnknownNameError("split", self.split, (*SPLITS, "val"))
        if self.size is not None and self.size < 1:
            raise ArgumentError(f"size is {self.size!r}; a dataset has at least one row")
        if self.seed < 0:
            raise ArgumentError(f"seed is {self.seed!r}; give a number from 0 on")
        if self.stream and self.size is not None:
            raise ArgumentError(f"a stream has no end, and size is {self.size!r}; give one of them")
        self._check()

    def _check(self) -> None:  # noqa: B027  # most sources have nothing to add
        """Refuse parameters that make no sense together."""

    @abstractmethod
    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw rows, independent and alike, whatever split they belong to."""

    @abstractmethod
    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of the text of this source."""

    def __len__(self) -> int:
        if self.stream:
            message = f"{self.describe()!r} is a stream, which has no length"
            raise TypeError(message)
        return self.default_sizes[self.split] if self.size is None else self.size

    def columns(self) -> TextColumns:
        """Return all rows; in validation and test each content stands once.

        Raises:
            ArgumentError: There is not that much distinct content.
        """
        seen: set[int] | None = None if self.split == "train" else set()
        return _merge(list(self._fill(self._rng("rows"), len(self), seen)))

    def block(self, number: int, n_rows: int) -> TextColumns:
        """Return one block of the stream; blocks are independent of each other."""
        return _merge(list(self._fill(self._rng("stream", number), n_rows, None)))

    def describe(self) -> dict[str, Any]:
        """Return plain values that tell this source from any other."""
        return {"name": self.name, "version": self.version, **asdict(self)}

    def _fill(
        self, rng: np.random.Generator, n_rows: int, seen: set[int] | None
    ) -> Iterator[TextColumns]:
        low, high = _BOUNDS[self.split]
        missing, fruitless = n_rows, 0
        while missing:
            n_proposed = min(int(missing / (high - low) * 1.05) + 16, _MAX_PROPOSALS)
            proposal = self.propose(rng, n_proposed)
            groups = proposal.contents if proposal.groups is None else proposal.groups
            share = groups.astype(np.float64) / 2.0**64
            kept = np.flatnonzero((low <= share) & (share < high))
            if seen is not None:
                kept = _unseen(proposal.contents, kept, seen)
            kept = kept[:missing]
            if seen is not None:
                seen.update(proposal.contents[kept].tolist())
            fruitless = 0 if len(kept) else fruitless + 1
            if fruitless == _MAX_FRUITLESS:
                raise ArgumentError(
                    f"the split {self.split!r} of {self.name!r} has only {n_rows - missing} rows "
                    f"of distinct content, and {n_rows} are asked for; give a smaller size"
                )
            missing -= len(kept)
            if len(kept):
                yield proposal.render(kept)

    def _rng(self, *address: str | int) -> np.random.Generator:
        parts = [self.name, self.split, *address]
        numbers = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in parts]
        return np.random.default_rng([self.seed, *numbers])


def hash_rows(values: np.ndarray) -> np.ndarray:
    """Return a hash of each row of integers, uint64.

    Args:
        values: (rows, anything), any integer type.
    """
    hashed = np.full(len(values), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in values.astype(np.uint64).T:
        hashed = _scramble(hashed ^ column)
    return hashed


def render_tokens(values: np.ndarray, names: list[str] | None = None) -> list[str]:
    """Write rows of integers as words.

    Args:
        values: (rows, words); negative numbers fill short rows at their end.
        names: The word of each number; its digits if None.
    """
    lengths = (values >= 0).sum(axis=1).tolist()
    if names is None:
        names = [str(number) for number in range(int(values.max(initial=0)) + 1)]
    rows = np.array(names, dtype=object)[values].tolist()
    return [" ".join(row[:length]) for row, length in zip(rows, lengths, strict=True)]


def _scramble(values: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit words, so that near ones come far apart (the finaliser splitmix64)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _unseen(contents: np.ndarray, kept: np.ndarray, seen: set[int]) -> np.ndarray:
    _, first = np.unique(contents[kept], return_index=True)
    candidates = kept[np.sort(first)]
    return candidates[[content not in seen for content in contents[candidates].tolist()]]


def _merge(pieces: list[TextColumns]) -> TextColumns:
    return {name: [text for piece in pieces for text in piece[name]] for name in pieces[0]}
