import dataclasses
import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from xlm_data_tools import (
    draw,
    numbers,
    texts_of,
)

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.sources import (
    SPLITS,
    STAR_LEVELS,
    StarGraphSource,
    asymmetric_variable_armlength_star_graph,
    generate_star_graphs,
    open_local,
    simple_star_graph,
)
from pellucid.xlm.sources._star_files import main


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
    for prompt, target in texts_of(columns):
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
    for prompt, _ in texts_of(draw("local://star?level=hard", "train", size=100)):
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
