"""Sudoku of 4x4 cells: all 288 grids, and puzzles with one solution among them."""

import functools

import numpy as np

_MAX_ROUNDS = 64


@functools.cache
def all_grids() -> np.ndarray:
    """Return every filled grid, (288, 16), digits 1 to 4."""
    grids: list[list[int]] = [[]]
    for cell in range(16):
        grids = [[*grid, digit] for grid in grids for digit in _allowed(grid, cell)]
    return np.array(grids)


def draw_puzzles(
    rng: np.random.Generator, n_rows: int, *, min_clues: int, max_clues: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw puzzles that have one solution.

    The number of clues is uniform, and for each number every puzzle is as likely as any other. Of
    those with few clues a row is left out now and then.

    Returns:
        Puzzles, with 0 for blanks, and solutions, both (rows, 16).
    """
    n_clues = rng.integers(min_clues, max_clues, size=n_rows, endpoint=True)
    grid = np.zeros(n_rows, dtype=np.int64)
    is_clue = np.zeros((n_rows, 16), dtype=bool)
    missing = np.arange(n_rows)
    for _ in range(_MAX_ROUNDS):
        drawn = rng.integers(len(all_grids()), size=len(missing))
        rank = rng.random((len(missing), 16)).argsort(axis=1).argsort(axis=1)
        clues = rank < n_clues[missing, None]
        unique = _is_unique(drawn, clues)
        grid[missing[unique]], is_clue[missing[unique]] = drawn[unique], clues[unique]
        missing = missing[~unique]
        if not len(missing):
            break
    found = np.setdiff1d(np.arange(n_rows), missing)
    solutions = all_grids()[grid[found]]
    return np.where(is_clue[found], solutions, 0), solutions


def _is_unique(grid: np.ndarray, clues: np.ndarray) -> np.ndarray:
    """Say whether no other grid has the same digits where the clues are."""
    bits = (clues * (1 << np.arange(16))).sum(axis=1)
    agree = (bits[:, None] & _differences()[grid]) == 0
    return agree.sum(axis=1) == 1


@functools.cache
def _differences() -> np.ndarray:
    """Return, for each two grids, the cells in which they differ as bits."""
    differ = all_grids()[:, None] != all_grids()[None]
    return (differ * (1 << np.arange(16))).sum(axis=2)


def _allowed(grid: list[int], cell: int) -> list[int]:
    row, column = divmod(cell, 4)
    taken = {
        digit
        for other, digit in enumerate(grid)
        if other // 4 == row
        or other % 4 == column
        or (other // 8, other % 4 // 2) == (row // 2, column // 2)
    }
    return [digit for digit in range(1, 5) if digit not in taken]
