import json
import math
from pathlib import Path
from typing import Any

import pytest

from pellucid.testing import TinyLM

RESULT_KEYS = {
    "initial_loss",
    "best_loss",
    "verified_loss",
    "tokenization_gap",
    "best_trigger",
    "best_trigger_parts",
    "best_trigger_tokens",
    "goal_reached",
    "answer_before",
    "answer_initial",
    "answer_after",
    "stop_reason",
    "steps",
    "elapsed_s",
    "seed",
    "usage",
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def rows(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def curve(run: Path) -> list[tuple[Any, ...]]:
    return [(row["step"], row["loss"], row["best_loss"], row["trigger"]) for row in rows(run)]


def test_a_run_leaves_a_directory(tiny, asked, tmp_path):
    run = tmp_path / "deep" / "run"
    done = tiny(*asked, "--steps=4", "--out", run)
    assert done.code == 0
    assert {path.name for path in run.iterdir()} == {
        "checkpoint",
        "config.json",
        "report.html",
        "result.json",
        "steps.jsonl",
    }
    config = read(run / "config.json")
    assert config["templates"] == ["I see {{OPTIMIZED_TRIGGER}} now."]
    assert config["targets"] == ["a cat"]
    assert (config["steps"], config["seed"], config["candidates"]) == (4, 3, 12)
    result = read(run / "result.json")
    assert set(result) == RESULT_KEYS
    assert result["stop_reason"] == "steps"
    assert result["goal_reached"] is False
    assert result["best_loss"] == rows(run)[-1]["best_loss"] < result["initial_loss"]
    assert math.isclose(result["verified_loss"], result["best_loss"], abs_tol=1e-3)
    assert result["usage"]["total_tokens"] == rows(run)[-1]["tokens"]
    assert (result["steps"], result["seed"]) == (4, 3)


def test_steps_are_recorded_with_the_agreed_columns(tiny, asked, tmp_path):
    tiny(*asked, "--steps=3", "--out", tmp_path / "run")
    recorded = rows(tmp_path / "run")
    assert [row["step"] for row in recorded] == [1, 2, 3]
    for row in recorded:
        assert list(row) == ["step", "loss", "best_loss", "trigger", "elapsed_s", "tokens"]


def test_the_summary_says_what_came_of_it(tiny, asked, tmp_path):
    run = tmp_path / "run"
    done = tiny(*asked, "--steps=2", "--out", run)
    result = read(run / "result.json")
    assert "Goal not reached after 2 steps" in done.out
    assert f"{result['best_loss']:.4f}" in done.out
    assert str(run / "report.html") in done.out
    assert "step 1/2" in done.err
    assert "step 2/2" in done.err


def test_answers_are_those_of_the_text_path(tiny, asked, tmp_path):
    tiny(*asked, "--steps=3", "--out", tmp_path / "run")
    result = read(tmp_path / "run" / "result.json")
    model = TinyLM(seed=1)
    before, initial, after = model(
        [
            "I see now.",
            "I see the dog now.",
            f"I see {result['best_trigger']} now.",
        ],
        max_new_tokens=64,
    )
    assert result["answer_before"] == before
    assert result["answer_initial"] == initial
    assert result["answer_after"] == after
    assert len({before, initial, after}) == 3


def test_the_same_seed_makes_the_same_run(tiny, asked, tmp_path):
    for name in ("a", "b"):
        tiny(*asked, "--steps=4", "--out", tmp_path / name)
    tiny(*asked, "--steps=4", "--seed=4", "--out", tmp_path / "c")
    assert curve(tmp_path / "a") == curve(tmp_path / "b") != curve(tmp_path / "c")


def test_a_seed_is_drawn_and_written_down(tiny, asked, tmp_path):
    unseeded = [option for option in asked if not option.startswith("--seed")]
    seeds = set()
    for name in ("a", "b"):
        tiny(*unseeded, "--steps=1", "--out", tmp_path / name)
        config, result = (read(tmp_path / name / f"{f}.json") for f in ("config", "result"))
        assert config["seed"] == result["seed"]
        seeds.add(config["seed"])
    assert len(seeds) == 2


def test_several_templates_have_an_answer_each(tiny, asked, tmp_path):
    run = tmp_path / "run"
    done = tiny(
        *asked, "--template={{OPTIMIZED_TRIGGER}}!", "--target=I run", "--steps=2", "--out", run
    )
    assert done.code == 0
    result = read(run / "result.json")
    assert [len(result[f"answer_{name}"]) for name in ("before", "initial", "after")] == [2, 2, 2]
    assert read(run / "config.json")["targets"] == ["a cat", "I run"]
    assert (run / "report.html").read_text().count("Answer with the trigger") == 2


def test_the_budget_ends_a_run(tiny, asked, tmp_path):
    run = tmp_path / "run"
    assert tiny(*asked, "--steps=50", "--budget-tokens=500", "--out", run).code == 0
    assert read(run / "result.json")["stop_reason"] == "budget"
    tokens = [row["tokens"] for row in rows(run)]
    assert tokens[-1] >= 500 > tokens[-2]


class Parrot(TinyLM):
    """Says the target whatever it is asked."""

    def __call__(self, input_texts: list[str], **kwargs: Any) -> Any:
        super().__call__(input_texts, **kwargs)
        return [" a cat "] * len(input_texts)


@pytest.fixture
def parrot(tiny, monkeypatch):
    from pellucid.cli import _setup

    monkeypatch.setattr(_setup, "load_model", lambda spec, base_url=None: Parrot(seed=1))
    return tiny


def test_a_run_stops_at_its_goal(parrot, asked, tmp_path):
    run = tmp_path / "run"
    done = parrot(*asked, "--steps=5", "--out", run)
    result = read(run / "result.json")
    assert (result["stop_reason"], result["goal_reached"], len(rows(run))) == ("success", True, 1)
    assert "Goal reached after 1 steps" in done.out
    assert "--resume" not in (run / "report.html").read_text()


def test_a_run_can_go_on_beyond_its_goal(parrot, asked, tmp_path):
    run = tmp_path / "run"
    parrot(*asked, "--steps=5", "--no-stop", "--out", run)
    result = read(run / "result.json")
    assert (result["stop_reason"], result["goal_reached"], len(rows(run))) == ("steps", True, 5)


def test_looking_for_the_goal_costs_the_search_nothing(tiny, asked, tmp_path):
    tiny(*asked, "--steps=3", "--out", tmp_path / "looking")
    tiny(*asked, "--steps=3", "--no-stop", "--out", tmp_path / "not")
    usage = [read(tmp_path / name / "result.json")["usage"] for name in ("looking", "not")]
    assert usage[0] == usage[1]


def test_without_targets_there_is_no_goal(tiny, asked, tmp_path):
    aimless = [option for option in asked if not option.startswith("--target")]
    run = tmp_path / "run"
    done = tiny(*aimless, "--loss=trigger-perplexity", "--steps=2", "--out", run)
    assert done.code == 0, done.err
    assert read(run / "result.json")["goal_reached"] is None
    assert "No target to reach" in (run / "report.html").read_text()


def test_random_search_runs_too(tiny, asked, tmp_path):
    options = [option for option in asked if not option.startswith("--topk")]
    run = tmp_path / "run"
    done = tiny(*options, "--optimizer=random-search", "--steps=2", "--out", run)
    assert done.code == 0, done.err
    assert read(run / "config.json")["topk"] is None


def test_the_optimizers_own_choices_are_written_down(tiny, asked, tmp_path):
    options = [option for option in asked if not option.startswith(("--candidates", "--topk"))]
    tiny(*options, "--steps=1", "--out", tmp_path / "run")
    config = read(tmp_path / "run" / "config.json")
    assert config["candidates"] == 512
    assert config["topk"] == min(256, TinyLM(seed=1).vocab_size)


def test_a_directory_is_chosen_when_none_is_named(tiny, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert tiny(*asked, "--steps=1").code == 0
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all("-gcg" in name for name in runs)


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tiny, asked, tmp_path):
    others = [option for option in asked if not option.startswith("--initial-trigger")]
    done = tiny(*others, "--initial-trigger=", "--steps=2", "--out", tmp_path / "deep" / "run")
    assert done.code == 2
    assert "initial trigger ''" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_later_keeps_what_it_has(tiny, asked, tmp_path, monkeypatch):
    from pellucid.optimizers import ExactMatch

    def fail(self, step):
        if step.step == 2:
            raise OSError(28, "No space left on device")
        return False

    monkeypatch.setattr(ExactMatch, "__call__", fail)
    run = tmp_path / "run"
    done = tiny(*asked, "--steps=4", "--out", run)
    assert done.code == 2
    assert "No space left on device" in done.err
    assert len(rows(run)) == 2
    assert read(run / "config.json")["steps"] == 4
    assert not (run / "result.json").exists()


def test_a_trigger_of_two_parts_is_searched_resumed_and_shown_part_by_part(tiny, tmp_path):
    run = tmp_path / "run"
    arguments = (
        "optimize",
        "--template=I see {{OPTIMIZED_TRIGGER_1}} now, {{OPTIMIZED_TRIGGER_2}}.",
        "--template=You {{OPTIMIZED_TRIGGER_2}}",
        "--target=a cat",
        "--target=no",
        "--initial-trigger=X dog",
        "--initial-trigger=xyz",
        "--candidates=12",
        "--topk=20",
        "--seed=3",
    )
    done = tiny(*arguments, "--steps=3", "--out", run)
    assert done.code == 0, done.err
    result = read(run / "result.json")
    assert result["best_trigger_parts"] == result["best_trigger"].split("\u241e")
    first, second = result["best_trigger_parts"]
    assert f"best part 1     {first}" in done.out
    assert f"best part 2     {second}" in done.out
    assert read(run / "config.json")["initial_trigger"] == "X dog\u241exyz"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<span class="slot">trigger 1</span>' in page
    assert page.count('<span class="slot">trigger 2</span>') == 2
    assert "Part 1" in page
    assert tiny("optimize", "--resume", run, "--steps=5").code == 0
    whole = tmp_path / "whole"
    tiny(*arguments, "--steps=5", "--out", whole)
    assert curve(run) == curve(whole)


def test_a_trigger_may_stand_twice_and_parts_have_a_start_of_their_own(tiny, asked, tmp_path):
    _, _, *rest = asked
    twice = "--template={{OPTIMIZED_TRIGGER}} I see {{OPTIMIZED_TRIGGER}} now."
    done = tiny("optimize", twice, *rest, "--steps=2", "--out", tmp_path / "twice")
    assert done.code == 0, done.err
    assert read(tmp_path / "twice" / "result.json")["best_trigger_parts"] is None
    parts = "--template=I {{OPTIMIZED_TRIGGER_1}} see {{OPTIMIZED_TRIGGER_2}}"
    without = [option for option in rest if not option.startswith("--initial-trigger")]
    done = tiny("optimize", parts, *without, "--steps=1", "--out", tmp_path / "parts")
    assert done.code == 0, done.err
    start = " ".join("!" * 10)
    config = read(tmp_path / "parts" / "config.json")
    assert config["initial_trigger"] == f"{start}\u241e{start}"


def test_a_start_of_another_number_of_parts_is_refused(tiny, asked, tmp_path):
    _, _, *rest = asked
    parts = "--template=I {{OPTIMIZED_TRIGGER_1}} see {{OPTIMIZED_TRIGGER_2}}"
    done = tiny("optimize", parts, *rest, "--out", tmp_path / "run")
    assert done.code == 2
    assert "has 1 parts, and the templates have places for 2" in done.err
    done = tiny(*asked, "--initial-trigger=cat", "--out", tmp_path / "run")
    assert "has 2 parts, and the templates have places for 1" in done.err
    gap = "--template=I {{OPTIMIZED_TRIGGER_1}} see {{OPTIMIZED_TRIGGER_3}}"
    done = tiny("optimize", gap, *rest, "--out", tmp_path / "run")
    assert "{{OPTIMIZED_TRIGGER_2}} in none of them" in done.err
    assert not (tmp_path / "run").exists()


def test_two_parts_are_searched_on_a_trained_model(command, tmp_path):
    done = command(
        "optimize",
        "--template={{OPTIMIZED_TRIGGER_1}} What colour is the sky? {{OPTIMIZED_TRIGGER_2}}",
        "--target=The sky is green.",
        "--initial-trigger=! !",
        "--initial-trigger=! ! !",
        "--candidates=8",
        "--topk=8",
        "--steps=2",
        "--seed=0",
        "--out",
        tmp_path / "run",
    )
    assert done.code == 0, done.err
    result = read(tmp_path / "run" / "result.json")
    assert len(result["best_trigger_parts"]) == 2
    assert len(result["best_trigger_tokens"]) == 5
    assert math.isclose(result["verified_loss"], result["best_loss"], abs_tol=1e-3)
