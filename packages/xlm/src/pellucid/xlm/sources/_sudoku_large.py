"""Sudoku of 9x9 cells: grids by backtracking and symmetry, puzzles that need no guess.

Cells are held as bits of the digits that they may still be, for many puzzles at once. A puzzle that
propagation fills has one solution, since propagation only leaves out what no solution has.
"""

from dataclasses import dataclass

import numpy as np

_ALL = 0x1FF


def random_grid(rng: np.random.Generator) -> np.ndarray:
    """Return one filled grid, (81,), digits 1 to 9, by backtracking in a random order."""
    grid = np.zeros(81, dtype=np.int64).tolist()
    rows, columns, boxes = [0] * 9, [0] * 9, [0] * 9
    order = rng.permuted(np.tile(np.arange(9), (81, 1)), axis=1).tolist()

    def fill(n_left: int) -> bool:
        if n_left == 0:
            return True
        cell, taken = _most_taken(grid, rows, columns, boxes)
        row, column = divmod(cell, 9)
        box = row // 3 * 3 + column // 3
        for digit in order[cell]:
            bit = 1 << digit
            if taken & bit:
                continue
            grid[cell] = digit + 1
            for held, unit in ((rows, row), (columns, column), (boxes, box)):
                held[unit] |= bit
            if fill(n_left - 1):
                return True
            for held, unit in ((rows, row), (columns, column), (boxes, box)):
                held[unit] &= ~bit
            grid[cell] = 0
        return False

    fill(81)
    return np.array(grid)


@dataclass(frozen=True)
class Symmetries:
    """Ways to turn a grid into another one, one for each row.

    Attributes:
        lines: The order of the lines, (rows, 9).
        columns: The order of the columns, (rows, 9).
        is_flipped: Whether lines become columns, (rows,).
        digits: What becomes of 0 (which stays), 1, 2, ... 9, (rows, 10).
    """

    lines: np.ndarray
    columns: np.ndarray
    is_flipped: np.ndarray
    digits: np.ndarray

    def apply(self, grids: np.ndarray) -> np.ndarray:
        """Return what becomes of grids, with blanks or without, (rows, 81)."""
        squares = grids.reshape(-1, 9, 9)
        squares = np.take_along_axis(squares, self.lines[:, :, None], axis=1)
        squares = np.take_along_axis(squares, self.columns[:, None, :], axis=2)
        flipped = squares.transpose(0, 2, 1)
        squares = np.where(self.is_flipped[:, None, None], flipped, squares)
        return np.take_along_axis(self.digits, squares.reshape(-1, 81), axis=1)

    def take(self, rows: np.ndarray) -> "Symmetries":
        """Return those of some rows."""
        return Symmetries(
            self.lines[rows], self.columns[rows], self.is_flipped[rows], self.digits[rows]
        )


def draw_symmetries(rng: np.random.Generator, n_rows: int) -> Symmetries:
    """Draw symmetries of sudoku, all equally likely."""
    digits = rng.random((n_rows, 9)).argsort(axis=1) + 1
    return Symmetries(
        lines=_line_order(rng, n_rows),
        columns=_line_order(rng, n_rows),
        is_flipped=rng.random(n_rows) < 0.5,
        digits=np.concatenate([np.zeros((n_rows, 1), dtype=np.int64), digits], axis=1),
    )


def dig_puzzles(rng: np.random.Generator, grids: np.ndarray, *, min_clues: int) -> np.ndarray:
    """Return puzzles, 0 for blanks, of which no cell more could be taken.

    Cells are tried in a random order, many at once where that goes well.

    Args:
        rng: Draws the order in which cells are tried.
        grids: Solutions, (rows, 81).
        min_clues: Fewest cells to leave.
    """
    rank = rng.random(grids.shape).argsort(axis=1).argsort(axis=1)
    puzzles = grids.copy()
    at = np.zeros(len(grids), dtype=np.int64)
    step = np.full(len(grids), 32)
    while True:
        spare = (puzzles > 0).sum(axis=1) - min_clues
        open_ = np.flatnonzero((at < 81) & (spare > 0))
        if not len(open_):
            return puzzles
        tried = np.minimum(step[open_], spare[open_])
        from_ = at[open_, None]
        is_tried = (rank[open_] >= from_) & (rank[open_] < from_ + tried[:, None])
        attempt = np.where(is_tried, 0, puzzles[open_])
        solved = fills(attempt)
        puzzles[open_[solved]] = attempt[solved]
        at[open_] += np.where(solved, tried, tried == 1)
        step[open_] = np.where(solved, tried * 2, np.maximum(tried // 2, 1))


def fills(puzzles: np.ndarray) -> np.ndarray:
    """Say of each puzzle, (rows, 81), whether singles alone fill it."""
    cells = np.where(puzzles > 0, 1 << np.maximum(puzzles - 1, 0), _ALL).astype(np.uint16)
    cells = cells.reshape(-1, 9, 9)
    filled = np.zeros(len(cells), dtype=bool)
    active = np.arange(len(cells))
    while len(active):
        before = cells[active]
        after = _hidden_singles(_naked_singles(before))
        cells[active] = after
        is_filled = ((after & (after - 1)) == 0).all(axis=(1, 2))
        filled[active] = is_filled
        changed = (after != before).any(axis=(1, 2))
        active = active[changed & ~is_filled]
    return filled


def _naked_singles(cells: np.ndarray) -> np.ndarray:
    """Take the digit of a filled cell from the cells that see it."""
    is_single = (cells & (cells - 1)) == 0
    singles = np.where(is_single, cells, 0).astype(np.uint16)
    return np.where(is_single, cells, cells & ~_seen(singles))


def _seen(bits: np.ndarray) -> np.ndarray:
    """Return the bits of each cell's row, column and box together."""
    rows = np.bitwise_or.reduce(bits, axis=2)[:, :, None]
    columns = np.bitwise_or.reduce(bits, axis=1)[:, None, :]
    boxed = bits.reshape(-1, 3, 3, 3, 3)
    boxes = np.bitwise_or.reduce(np.bitwise_or.reduce(boxed, axis=4), axis=2)
    return rows | columns | _spread(boxes)


def _hidden_singles(cells: np.ndarray) -> np.ndarray:
    """Fill a cell that alone in a unit may be a digit."""
    rows = _only_once(cells)[:, :, None]
    columns = _only_once(cells.transpose(0, 2, 1))[:, None, :]
    boxed = cells.reshape(-1, 3, 3, 3, 3).transpose(0, 1, 3, 2, 4).reshape(-1, 9, 9)
    boxes = _spread(_only_once(boxed).reshape(-1, 3, 3))
    hidden = cells & (rows | columns | boxes)
    return np.where(hidden > 0, hidden, cells)


def _only_once(units: np.ndarray) -> np.ndarray:
    """Return the bits that stand in one cell of each unit, the last axis."""
    once = np.zeros(units.shape[:2], dtype=np.uint16)
    twice = np.zeros_like(once)
    for cell in range(9):
        twice |= once & units[:, :, cell]
        once |= units[:, :, cell]
    return once & ~twice


def _spread(boxes: np.ndarray) -> np.ndarray:
    return boxes.repeat(3, axis=1).repeat(3, axis=2)


def _line_order(rng: np.random.Generator, n_rows: int) -> np.ndarray:
    """Return orders of 9 lines that keep bands together, (rows, 9)."""
    bands = rng.random((n_rows, 3)).argsort(axis=1)
    within = rng.random((n_rows, 3, 3)).argsort(axis=2)
    return (bands[:, :, None] * 3 + within).reshape(n_rows, 9)


def _most_taken(
    grid: list[int], rows: list[int], columns: list[int], boxes: list[int]
) -> tuple[int, int]:
    """Return the blank cell with the fewest digits left, and the bits that it may not be."""
    best, best_taken, most = -1, 0, -1
    for cell, digit in enumerate(grid):
        if digit:
            continue
        row, column = divmod(cell, 9)
        taken = rows[row] | columns[column] | boxes[row // 3 * 3 + column // 3]
        if taken.bit_count() > most:
            best, best_taken, most = cell, taken, taken.bit_count()
    return best, best_taken
