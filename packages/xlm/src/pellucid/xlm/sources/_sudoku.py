"""Sudoku puzzles with one solution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import tokenize_infilling
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._source import (
    LocalSource,
    Proposal,
    TextColumns,
    hash_rows,
    render_tokens,
)
from pellucid.xlm.sources._sudoku_large import dig_puzzles, draw_symmetries, random_grid
from pellucid.xlm.sources._sudoku_small import draw_puzzles

# To make a grid, and a puzzle of it, takes far longer than to turn them into another. Images of one
# grid stay in one split.
_ROWS_OF_GRID = 64
_PATTERNS_OF_GRID = 8


@dataclass(frozen=True, kw_only=True)
class SudokuSource(LocalSource):
    """`local://sudoku`: puzzles, with 0 for blanks, and their solutions.

    Of 9x9 puzzles no two splits share a grid, nor one that a symmetry makes of it. There are but
    288 grids of 4x4 cells, so there no two splits share a puzzle; or no grid, if `holdout` says so.

    Attributes:
        cells: Along a side: 4 or 9.
        min_clues: Fewest digits given; 4 or 17 if None. A 9x9 puzzle has as few as singles can be
            solved from, about 25, unless this is more.
        max_clues: Most digits given, 4x4 only; 10 if None.
        holdout: What splits do not share: "puzzle" or "grid".
    """

    cells: int = 9
    min_clues: int | None = None
    max_clues: int | None = None
    holdout: str = "puzzle"

    name: ClassVar[str] = "sudoku"
    preprocess_function: ClassVar[Callable[..., Any]] = tokenize_infilling

    def _check(self) -> None:
        if self.cells not in (4, 9):
            raise ArgumentError(f"cells is {self.cells!r}; a side has 4 or 9")
        if self.holdout not in ("puzzle", "grid"):
            raise UnknownNameError("holdout", self.holdout, ("puzzle", "grid"))
        if self.cells == 9 and self.max_clues is not None:
            raise ArgumentError("9x9 puzzles have as few clues as can be; give min_clues alone")
        least, most = self._clues()
        floor = 4 if self.cells == 4 else 17
        if not floor <= least <= most <= self.cells**2:
            raise ArgumentError(
                f"min_clues {least!r} and max_clues {most!r} should ascend from {floor} to "
                f"{self.cells**2}"
            )

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw puzzles; some rows fewer where no puzzle with one solution was found."""
        return self._small(rng, n_rows) if self.cells == 4 else self._large(rng, n_rows)

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of 0 and the digits."""
        return SimpleSpaceTokenizer.for_numbers(self.cells + 1)

    def _small(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        least, most = self._clues()
        puzzles, solutions = draw_puzzles(rng, n_rows, min_clues=least, max_clues=most)
        groups = hash_rows(solutions if self.holdout == "grid" else puzzles)
        return Proposal(
            hash_rows(puzzles), lambda rows: _write(puzzles[rows], solutions[rows]), groups
        )

    def _large(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        grids = np.array([random_grid(rng) for _ in range(n_rows // _ROWS_OF_GRID + 1)])
        pattern = rng.integers(len(grids) * _PATTERNS_OF_GRID, size=n_rows)
        base = grids[pattern // _PATTERNS_OF_GRID]
        symmetry = draw_symmetries(rng, n_rows)
        solutions = symmetry.apply(base)
        digging = np.random.default_rng(rng.integers(2**63))

        def render(rows: np.ndarray) -> TextColumns:
            # Only what belongs to the split is worth the digging.
            used, which = np.unique(pattern[rows], return_inverse=True)
            bases = grids[used // _PATTERNS_OF_GRID]
            dug = dig_puzzles(digging, bases, min_clues=self._clues()[0])
            return _write(symmetry.take(rows).apply(dug[which]), solutions[rows])

        return Proposal(hash_rows(solutions), render, hash_rows(base))

    def _clues(self) -> tuple[int, int]:
        if self.cells == 4:
            least = 4 if self.min_clues is None else self.min_clues
            return least, 10 if self.max_clues is None else self.max_clues
        return 17 if self.min_clues is None else self.min_clues, 81


def _write(puzzles: np.ndarray, solutions: np.ndarray) -> TextColumns:
    return {"puzzle": render_tokens(puzzles), "solution": render_tokens(solutions)}
