import dataclasses
import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.sources import (
    GRAMMARS,
    SPLITS,
    STAR_LEVELS,
    LocalSource,
    Proposal,
    StarGraphSource,
    SudokuSource,
    address_of,
    asymmetric_variable_armlength_star_graph,
    generate_star_graphs,
    hash_rows,
    local_sources,
    open_local,
    register_local_source,
    simple_star_graph,
)
from pellucid.xlm.sources._star_files import main

SMALL = [
    "local://star?level=mini",
    "local://star?level=easy",
    "local://star?level=medium",
    "local://star?level=hard",
    "local://sudoku?cells=4",
    "local://sudoku?cells=9",
    "local://cfg?grammar=brackets",
    "local://cfg?grammar=arithmetic",
    "local://cfg?grammar=sentences",
    "local://markov?length=32",
    "local://hmm?length=32",
    "local://addition?digits=3",
    "local://corpus",
]


def draw(address: str, split: str, **changes) -> dict[str, list[str]]:
    return dataclasses.replace(open_local(address), split=split, **changes).columns()


def rows_of(columns) -> list[tuple[str, ...]]:
    return list(zip(*columns.values(), strict=True))


@pytest.mark.parametrize("address", SMALL)
def test_splits_share_no_content_whatever_their_seeds(address) -> None:
    seen = {split: set(rows_of(draw(address, split, size=150, seed=7))) for split in SPLITS}
    seen["train"] |= set(rows_of(draw(address, "train", size=600, seed=8)))
    stream = dataclasses.replace(open_local(address), size=None, stream=True)
    seen["train"] |= set(rows_of(stream.block(3, 300)))
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["test"] & seen["validation"]


@pytest.mark.parametrize("address", SMALL)
def test_rows_follow_from_the_seed_alone(address) -> None:
    first = draw(address, "test", size=40)
    state = np.random.get_state()[1].copy()
    assert draw(address, "test", size=40) == first
    assert (np.random.get_state()[1] == state).all()
    assert draw(address, "test", size=40, seed=1) != first
    assert len(set(rows_of(first))) == 40


@pytest.mark.parametrize("address", SMALL)
def test_its_tokenizer_knows_every_word(address) -> None:
    source = dataclasses.replace(open_local(address), split="train", size=300)
    tokenizer = source.tokenizer()
    words = {word for row in rows_of(source.columns()) for text in row for word in text.split()}
    assert words <= tokenizer.get_vocab().keys()


@pytest.mark.parametrize("address", SMALL)
def test_blocks_of_a_stream_are_whole_and_differ(address) -> None:
    stream = dataclasses.replace(open_local(address), stream=True)
    blocks = [rows_of(stream.block(number, 64)) for number in range(3)]
    assert [len(block) for block in blocks] == [64] * 3
    assert blocks[0] != blocks[1] != blocks[2]
    assert rows_of(stream.block(1, 64)) == blocks[1]
    with pytest.raises(TypeError, match="a stream, which has no length"):
        len(stream)


# ---- star graphs ---------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def edges_of(words: list[int]) -> list[tuple[int, int]]:
    return list(zip(words[::2], words[1::2], strict=True))


def naive_solution(prompt: str) -> list[list[tuple[int, int]]]:
    """Every path from start to goal, by following edges."""
    words = numbers(prompt)
    start, goal = words[-2:]
    followers = defaultdict(list)
    for first, second in edges_of(words[:-2]):
        followers[first].append(second)
    found = []

    def walk(node, path):
        if node == goal:
            found.append(path)
            return
        for follower in followers[node]:
            walk(follower, [*path, (node, follower)])

    walk(start, [])
    return found


@pytest.mark.parametrize("level", STAR_LEVELS)
def test_the_target_is_the_only_path_of_a_star(level) -> None:
    shape = STAR_LEVELS[level]
    columns = draw(f"local://star?level={level}", "train", size=200)
    for prompt, target in rows_of(columns):
        assert naive_solution(prompt) == [edges_of(numbers(target))]
        words = numbers(prompt)
        edges = edges_of(words[:-2])
        nodes = {node for edge in edges for node in edge}
        assert len(edges) == len(set(edges)) == len(nodes) - 1
        assert max(nodes) < shape.vocab_size
        # The centre is where all arms meet: one edge out for each arm.
        out = Counter(first for first, _ in edges)
        assert max(out.values()) == shape.degree
        if shape.plan is None:
            assert out[words[-2]] == shape.degree
            assert len(edges) == shape.degree * (shape.longest - 1)


def test_easy_is_of_the_published_shape() -> None:
    source = open_local("local://star?level=easy&split=train&seed=42")
    assert [len(dataclasses.replace(source, split=split)) for split in SPLITS] == [
        50_000,
        100,
        5_000,
    ]
    columns = dataclasses.replace(source, size=100).columns()
    assert {len(prompt.split()) for prompt in columns["prompt"]} == {26}
    assert {len(target.split()) for target in columns["target"]} == {8}


@pytest.mark.parametrize(
    ("level", "prompts", "targets"), [("medium", (14, 32), (4, 10)), ("hard", (52, 112), (10, 22))]
)
def test_lengths_of_the_harder_levels_are_the_published_ones(level, prompts, targets) -> None:
    columns = draw(f"local://star?level={level}", "train", size=3_000)
    for name, (least, most) in (("prompt", prompts), ("target", targets)):
        lengths = [len(text.split()) for text in columns[name]]
        assert least <= min(lengths)
        assert max(lengths) <= most
    means = {"medium": (23, 7), "hard": (82, 16)}[level]
    for name, mean in zip(("prompt", "target"), means, strict=True):
        assert abs(np.mean([len(text.split()) for text in columns[name]]) - mean) < 0.5


def test_wrong_arms_go_on_for_as_long_as_the_plan_says() -> None:
    shape = STAR_LEVELS["hard"]
    for prompt, _ in rows_of(draw("local://star?level=hard", "train", size=100)):
        edges = edges_of(numbers(prompt)[:-2])
        follower = dict(edges)
        out = Counter(first for first, _ in edges)
        (centre,) = [node for node, count in out.items() if count == shape.degree]
        for first, second in edges:
            if first == centre:
                steps = 1
                while second in follower:
                    second, steps = follower[second], steps + 1
                assert steps >= shape.plan


def test_arms_and_goals_are_drawn_evenly() -> None:
    graphs = simple_star_graph(np.random.default_rng(0), 20_000)
    for drawn in (graphs.start, graphs.goal):
        counts = np.bincount(drawn, minlength=20)
        assert abs(counts / 20_000 - 1 / 20).max() < 0.01
    firsts = graphs.edges[:, 0, 0] == graphs.start
    assert abs(firsts.mean() - 3 / 12) < 0.02  # three of twelve edges leave the start


def test_lengths_of_arms_are_drawn_evenly() -> None:
    graphs = asymmetric_variable_armlength_star_graph(
        np.random.default_rng(0),
        20_000,
        degree=3,
        min_pathlength=3,
        max_pathlength=6,
        vocab_size=20,
        min_plan_length=2,
    )
    lengths = (graphs.path >= 0).sum(axis=1)
    assert abs(np.bincount(lengths, minlength=7)[3:] / 20_000 - 1 / 4).max() < 0.02


def test_the_content_of_a_graph_is_its_set_of_edges() -> None:
    graphs = simple_star_graph(np.random.default_rng(0), 50)
    shuffled = graphs.edges.copy()
    np.random.default_rng(1).shuffle(shuffled, axis=1)
    assert (shuffled != graphs.edges).any()
    other_path = dataclasses.replace(graphs, edges=shuffled, path=graphs.path[:, ::-1])
    assert (other_path.contents() == graphs.contents()).all()
    assert len(set(graphs.contents().tolist())) == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 12}, "may be 13, and vocab_size is 12"),
        ({"degree": 0}, "degree 0 and 5 nodes an arm"),
        ({"pathlength": 1}, "degree 3 and 1 nodes an arm"),
    ],
)
def test_stars_that_cannot_be_are_refused(changes, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        simple_star_graph(np.random.default_rng(0), 1, **changes)


def test_a_plan_as_long_as_the_shortest_arm_is_refused() -> None:
    with pytest.raises(ArgumentError, match="min_plan_length 3, min_pathlength 3"):
        asymmetric_variable_armlength_star_graph(
            np.random.default_rng(0),
            1,
            degree=3,
            min_pathlength=3,
            max_pathlength=4,
            vocab_size=20,
            min_plan_length=3,
        )


def test_fifty_thousand_graphs_take_seconds() -> None:
    begun = time.process_time()
    assert len(StarGraphSource().columns()["prompt"]) == 50_000
    assert time.process_time() - begun < 20


def test_graphs_are_written_for_other_programs(tmp_path, capsys) -> None:
    arguments = ["mini", str(tmp_path / "out"), "--train", "30", "--validation", "5", "--test", "7"]
    assert main(arguments) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    texts = [path.read_text(encoding="utf-8") for path in written]
    rows = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [len(held) for held in rows] == [30, 5, 7]
    direct = StarGraphSource(level="mini", split="test", size=7).columns()
    assert [row["target"] for row in rows[2]] == direct["target"]
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(UnknownNameError, match="Did you mean 'mini'"):
        generate_star_graphs("mni", tmp_path)
    with pytest.raises(SystemExit):
        main(["mni", str(tmp_path)])
    assert "Did you mean 'mini'" in capsys.readouterr().err


# ---- sudoku --------------------------------------------------------------------------------------


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
    for puzzle, solution in rows_of(draw(f"local://sudoku?cells={cells}", "train", size=n_puzzles)):
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


# ---- the others ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_sums_are_right(reverse) -> None:
    address = f"local://addition?digits=2&reverse={reverse}"
    for prompt, target in rows_of(draw(address, "train", size=200)):
        first, second = prompt.removesuffix(" =").split(" + ")
        written = target.split()[::-1] if reverse else target.split()
        total = int("".join(first.split())) + int("".join(second.split()))
        assert int("".join(written)) == total
        assert (len(first.split()), len(written)) == (2, 3)


def test_splits_do_not_share_summands_in_another_order() -> None:
    pairs = {}
    for split in ("train", "test"):
        prompts = draw("local://addition?digits=2", split, size=300)["prompt"]
        pairs[split] = {frozenset(p.removesuffix(" =").split(" + ")) for p in prompts}
    assert not pairs["train"] & pairs["test"]


@pytest.mark.parametrize("name", GRAMMARS)
def test_sentences_belong_to_their_grammar(name) -> None:
    texts = draw(f"local://cfg?grammar={name}&max_length=20", "train", size=100)["text"]
    grammar = GRAMMARS[name]
    for text in texts:
        words = text.split()
        assert len(words) <= 20
        assert grammar.accepts(words)
        assert not grammar.accepts([*words, words[0]])


def test_a_story_speaks_of_one_animal() -> None:
    columns = draw("local://corpus?sentences=4", "train", size=50)
    for text in columns["text"]:
        sentences = text.split(" .")
        assert len([s for s in sentences if s]) == 6
        pet = sentences[0].split()[-1]
        assert text.split().count(pet) >= 3
        others = {"cat", "dog", "goat", "duck", "horse", "rabbit", "hen", "turtle"} - {pet}
        assert not others & set(text.split())


def test_content_that_does_not_suffice_is_said() -> None:
    with pytest.raises(ArgumentError, match=r"has only .* rows of distinct content, and 5000 are"):
        draw("local://addition?digits=1", "test")


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", SMALL)
def test_an_address_is_that_of_its_source(address) -> None:
    source = open_local(address)
    assert open_local(address_of(source)) == source
    other = dataclasses.replace(source, size=17, seed=3, split="test")
    assert open_local(address_of(other)) == other


def test_keys_are_attributes() -> None:
    source = open_local("local://sudoku?cells=4&min_clues=5&split=val&size=9&holdout=grid")
    expected = SudokuSource(cells=4, min_clues=5, split="validation", size=9, holdout="grid")
    assert source == expected
    assert local_sources() == [
        "addition", "cfg", "corpus", "hmm", "markov", "star", "sudoku",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        (
            "local://sta?level=easy",
            UnknownNameError,
            "generated dataset 'sta'. Did you mean 'star'",
        ),
        ("local://star?levl=easy", UnknownNameError, "key of local://star 'levl'.*'level'"),
        ("local://star?level=esy", UnknownNameError, "level of star graphs 'esy'.*'easy'"),
        ("local://star?split=tets", UnknownNameError, "split 'tets'.*'test'"),
        ("local://cfg?grammar=braket", UnknownNameError, "grammar 'braket'.*'brackets'"),
        ("local://sudoku?holdout=grd", UnknownNameError, "holdout 'grd'.*'grid'"),
        ("local://star?seed=one", ArgumentError, "seed is 'one'; write a whole number"),
        ("local://star?stream=maybe", ArgumentError, "stream is 'maybe'; write true or false"),
        ("local://star?seed=1&seed=2", ArgumentError, "gives 'seed' twice"),
        ("local://star?seed", ArgumentError, "is not of the form local://NAME"),
        ("local://star/easy", ArgumentError, "is not of the form local://NAME"),
        ("star", ArgumentError, "is not of the form local://NAME"),
        ("local://star?seed=-1", ArgumentError, "seed is -1"),
        ("local://star?size=0", ArgumentError, "size is 0"),
        ("local://star?size=5&stream=true", ArgumentError, "a stream has no end"),
        ("local://sudoku?cells=6", ArgumentError, "cells is 6; a side has 4 or 9"),
        ("local://sudoku?cells=4&min_clues=3", ArgumentError, "min_clues 3 and max_clues 10"),
        ("local://sudoku?max_clues=30", ArgumentError, "give min_clues alone"),
        ("local://addition?digits=19", ArgumentError, "digits is 19"),
        ("local://corpus?sentences=6", ArgumentError, "sentences is 6"),
        ("local://markov?length=3", ArgumentError, "a row of length 3 has .* nats"),
        ("local://markov?states=1", ArgumentError, "states 1"),
        ("local://hmm?symbols=1", ArgumentError, "symbols is 1"),
        ("local://cfg?max_length=0", ArgumentError, "max_length is 0"),
    ],
)
def test_bad_addresses_are_explained(address, kind, message) -> None:
    with pytest.raises(kind, match=message):
        open_local(address)


def test_a_source_of_ones_own_is_addressable(monkeypatch) -> None:
    from pellucid.xlm.datamodule import SimpleSpaceTokenizer
    from pellucid.xlm.sources import _url

    monkeypatch.setattr(_url, "_SOURCES", dict(_url._SOURCES))

    @register_local_source
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Squares(LocalSource):
        name = "squares"
        top: int = 1_000

        def propose(self, rng, n_rows):
            drawn = rng.integers(0, self.top, size=(n_rows, 1))
            roots = drawn[:, 0].tolist()
            return Proposal(
                hash_rows(drawn),
                lambda rows: {
                    "prompt": [str(roots[r]) for r in rows.tolist()],
                    "target": [str(roots[r] ** 2) for r in rows.tolist()],
                },
            )

        def tokenizer(self):
            return SimpleSpaceTokenizer.for_numbers(self.top**2)

    columns = draw("local://squares?top=500", "test", size=20)
    assert all(int(p) ** 2 == int(t) for p, t in rows_of(columns))
    register_local_source(Squares)

    class Impostor(Squares):
        pass

    with pytest.raises(ArgumentError, match="'squares' is Squares already"):
        register_local_source(Impostor)
