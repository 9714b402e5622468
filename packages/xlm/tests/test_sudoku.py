from collections import Counter

import numpy as np
import pytest
from xlm_data_tools import (
    draw,
    numbers,
    texts_of,
)

from pellucid.xlm.sources import (
    SPLITS,
)


def naive_solutions(puzzle: list[int], side: int, limit: int = 2) -> list[list[int]]:
    box = int(side**0.5)
    blanks = [cell for cell, digit in enumerate(puzzle) if digit == 0]
    if not blanks:
        return [puzzle]

    def allowed(cell):
        row, column = divmod(cell, side)
        taken = {
            digit
            for other, digit in enumerate(puzzle)
            if other // side == row
            or other % side == column
            or (other // side // box, other % side // box) == (row // box, column // box)
        }
        return [digit for digit in range(1, side + 1) if digit not in taken]

    cell = min(blanks, key=lambda blank: len(allowed(blank)))
    found = []
    for digit in allowed(cell):
        found += naive_solutions(
            [*puzzle[:cell], digit, *puzzle[cell + 1 :]], side, limit - len(found)
        )
        if len(found) >= limit:
            break
    return found


@pytest.mark.parametrize(("cells", "n_puzzles"), [(4, 60), (9, 12)])
def test_puzzles_have_the_one_solution_that_they_say(cells, n_puzzles) -> None:
    for puzzle, solution in texts_of(
        draw(f"local://sudoku?cells={cells}", "train", size=n_puzzles)
    ):
        assert naive_solutions(numbers(puzzle), cells) == [numbers(solution)]
        grid = np.array(numbers(solution)).reshape(cells, cells)
        box = int(cells**0.5)
        boxes = grid.reshape(box, box, box, box).transpose(0, 2, 1, 3).reshape(cells, cells)
        for units in (grid, grid.T, boxes):
            assert (np.sort(units, axis=1) == np.arange(1, cells + 1)).all()


def test_small_puzzles_have_as_many_clues_as_asked_for() -> None:
    columns = draw("local://sudoku?cells=4&min_clues=5&max_clues=7", "train", size=2_000)
    clues = Counter(sum(digit > 0 for digit in numbers(puzzle)) for puzzle in columns["puzzle"])
    assert clues.keys() == {5, 6, 7}
    assert min(clues.values()) > 500
    assert 280 < len(set(columns["solution"])) <= 288


def test_large_puzzles_have_at_least_as_many_clues_as_asked_for() -> None:
    few = draw("local://sudoku?cells=9", "train", size=60)["puzzle"]
    many = draw("local://sudoku?cells=9&min_clues=45", "train", size=60)["puzzle"]
    counts = [[sum(d > 0 for d in numbers(puzzle)) for puzzle in held] for held in (few, many)]
    assert max(counts[0]) < 45
    assert set(counts[1]) == {45}
    assert 20 < np.mean(counts[0]) < 32


def test_splits_may_share_no_grid_of_four() -> None:
    grids = {
        split: set(draw("local://sudoku?cells=4&holdout=grid", split, size=80)["solution"])
        for split in SPLITS
    }
    assert not grids["train"] & grids["test"]
    assert not grids["train"] & grids["validation"]
    assert not grids["test"] & grids["validation"]


def test_no_clue_of_a_large_puzzle_could_be_taken_too() -> None:
    from pellucid.xlm.sources._sudoku_large import fills

    columns = draw("local://sudoku?cells=9", "train", size=10)
    puzzles = np.array([numbers(puzzle) for puzzle in columns["puzzle"]])
    assert fills(puzzles).all()
    for cell in range(81):
        taken = puzzles.copy()
        taken[:, cell] = 0
        assert not fills(taken)[puzzles[:, cell] > 0].any()


def test_digits_and_places_of_large_grids_are_even() -> None:
    solutions = draw("local://sudoku?cells=9", "train", size=2_000)["solution"]
    grids = np.array([numbers(solution) for solution in solutions])
    share = np.stack([(grids == digit).mean(axis=0) for digit in range(1, 10)])
    assert abs(share - 1 / 9).max() < 0.06
