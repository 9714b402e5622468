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
from pellucid.xlm.sources._sudoku_large import dig_puzzles, random_grid, transform_grids
from pellucid.xlm.sources._sudoku_small import draw_puzzles

# Grids that are images of one another under the symmetries of sudoku; they stay in one split.
_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class SudokuSource(LocalSource):
    """`local://sudoku`: puzzles, with 0 for blanks, and their solutions.

    Of 9x9 puzzles no two splits share a grid, nor one that a symmetry makes of it. There are but
    288 grids of 4x4 cells, so there no two splits share a puzzle; or no grid, if `holdout` says so.

    Attributes:
        cells: Along a side: 4 or 9.
        min_clues: Fewest digits given; 4 or 17 if None.
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
            raise ArgumentError(
                "9x9 puzzles have as few clues as their order allows; give min_clues alone"
            )
        least, most = self._clues()
        floor = 4 if self.cells == 4 else 17
        if not floor <= least <= most <= self.cells**2:
            raise ArgumentError(
                f"min_clues {least!r} and max_clues {most!r} should ascend from {floor} to "
                f"{self.cells**2}"
            )

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw puzzles; some rows fewer where no puzzle with one solution was found."""
        least, most = self._clues()
        if self.cells == 4:
            puzzles, solutions = draw_puzzles(rng, n_rows, min_clues=least, max_clues=most)
            groups = hash_rows(solutions if self.holdout == "grid" else puzzles)
        else:
            bases = np.array([random_grid(rng) for _ in range(n_rows // _IMAGES + 1)])
            base = rng.integers(len(bases), size=n_rows)
            solutions = transform_grids(rng, bases[base])
            puzzles = dig_puzzles(rng, solutions, min_clues=least)
            groups = hash_rows(bases)[base]

        def render(rows: np.ndarray) -> TextColumns:
            return {
                "puzzle": render_tokens(puzzles[rows]),
                "solution": render_tokens(solutions[rows]),
            }

        return Proposal(hash_rows(puzzles), render, groups)

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of 0 and the digits."""
        return SimpleSpaceTokenizer.for_numbers(self.cells + 1)

    def _clues(self) -> tuple[int, int]:
        if self.cells == 4:
            least = 4 if self.min_clues is None else self.min_clues
            return least, 10 if self.max_clues is None else self.max_clues
        return 17 if self.min_clues is None else self.min_clues, 81
