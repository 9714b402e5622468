import json
import sys
import threading

import pytest
from recipe_samples import RESPONSES, TEMPLATES

from pellucid.core import ArgumentError, CheckpointError, OptimizerResult
from pellucid.recipes import (
    RecipeConfig,
    ResultsTable,
    _order,
    carry_out,
    load_results,
    load_rows,
    run,
)
from pellucid.testing import TinyLM


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Whatever model is named, a random one is used that takes milliseconds."""
    made = []

    def load_model(spec, **how):
        made.append(TinyLM(seed=1))
        return made[-1]

    monkeypatch.setattr(_order, "load_model", load_model)
    return made


def configure(**changes):
    return RecipeConfig(
        **{
            "recipe": "gcg__zou2023",
            "model": "tiny",
            "templates": TEMPLATES,
            "targets": RESPONSES,
            "initial_trigger": "the cat",
            "num_steps": 4,
            "checkpoint_every": 1,
            "overrides": {"n_candidates": 6},
            **changes,
        }
    )


class Killed(BaseException):
    """Ends a process's work like a kill: nothing catches it."""


def kill_after(n_steps):
    def callback(step):
        if step.step > n_steps:
            raise Killed
        return False

    return callback


def test_a_run_is_a_row(tmp_path):
    config = configure()
    row = carry_out(config, tmp_path)
    assert load_rows(tmp_path) == load_rows(tmp_path / "results.jsonl") == [row]
    by_hand = run(config.recipe, **config.to_arguments())
    assert row["key"] == config.key
    assert row["status"] == "finished"
    assert (row["recipe"], row["model"], row["seed"]) == ("gcg__zou2023", "tiny", 0)
    assert row["overrides"] == {"n_candidates": 6}
    assert row["best_loss"] == by_hand.best_loss
    assert row["initial_loss"] == by_hand.initial_loss
    assert row["verified_loss"] == pytest.approx(by_hand.best_loss)
    assert row["best_trigger"] == by_hand.best_trigger_str
    assert (row["steps"], row["stop_reason"]) == (4, "steps")
    assert row["tokens"] == by_hand.usage["total_tokens"]
    assert row["elapsed_s"] > 0


def test_what_a_run_leaves_can_be_read_back(tmp_path):
    config = configure()
    row = carry_out(config, tmp_path)
    folder = ResultsTable(tmp_path).folder(config.key)
    assert RecipeConfig.load(folder.config) == config
    assert OptimizerResult.load(folder.result).best_loss == row["best_loss"]
    steps = [json.loads(line) for line in folder.steps.read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]


def test_a_row_that_is_finished_is_not_made_again(tmp_path, tiny):
    first = carry_out(configure(), tmp_path)
    assert len(tiny) == 1
    assert carry_out(configure(), tmp_path) == first
    assert len(tiny) == 1
    carry_out(configure(seed=1), tmp_path)
    assert len(tiny) == 2
    assert len(load_rows(tmp_path)) == 2


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_run_that_was_killed_goes_on(tmp_path, killed_after, tiny):
    whole = carry_out(configure(), tmp_path / "whole")
    with pytest.raises(Killed):
        carry_out(configure(), tmp_path / "killed", callbacks=[kill_after(killed_after)])
    (row,) = load_rows(tmp_path / "killed")
    assert row == {"key": configure().key, "status": "unfinished"}
    assert not (tmp_path / "killed" / "results.jsonl").exists()
    resumed = carry_out(configure(), tmp_path / "killed")
    for name in ("best_loss", "best_trigger", "steps", "tokens", "stop_reason"):
        assert resumed[name] == whole[name]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    config = configure()
    folder = ResultsTable(tmp_path).folder(config.key)
    folder.path.mkdir(parents=True)
    folder.steps.write_text('{"step": 1, "lo', encoding="utf-8")
    assert carry_out(config, tmp_path)["status"] == "finished"


def test_a_run_that_failed_says_why_and_is_made_again(tmp_path, monkeypatch):
    config = configure()
    with monkeypatch.context() as broken:

        def fail(spec, **how):
            raise RuntimeError("out of memory")

        broken.setattr(_order, "load_model", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            carry_out(config, tmp_path)
    (row,) = load_rows(tmp_path / "results.jsonl")
    assert (row["status"], row["error"]) == ("failed", "out of memory")
    carry_out(config, tmp_path)
    (row,) = load_rows(tmp_path / "results.jsonl")
    assert row["status"] == "finished"
    assert "error" not in row


def test_an_interrupt_leaves_a_run_to_be_gone_on_with(tmp_path):
    class Interrupt:
        stop_reason = "interrupted"

        def __call__(self, step):
            return step.step == 2

    row = carry_out(configure(), tmp_path, callbacks=[Interrupt()])
    assert (row["status"], row["steps"]) == ("unfinished", 2)
    assert load_rows(tmp_path) == [{"key": configure().key, "status": "unfinished"}]
    assert carry_out(configure(), tmp_path)["steps"] == 4


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path, tiny):
    config = configure()
    with ResultsTable(tmp_path).claim(config.key) as is_ours:
        assert is_ours
        row = carry_out(config, tmp_path)
    assert row["status"] == "unfinished"
    assert tiny == []
    assert carry_out(config, tmp_path)["status"] == "finished"


def test_writers_at_once_lose_nothing(tmp_path):
    table = ResultsTable(tmp_path)
    barrier = threading.Barrier(8)

    def write(number):
        barrier.wait()
        for i in range(5):
            table.write_row({"key": f"{number}-{i}", "status": "finished"})

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = load_rows(tmp_path / "results.jsonl")
    assert {row["key"] for row in rows} == {f"{n}-{i}" for n in range(8) for i in range(5)}


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    ResultsTable(tmp_path).write_row(
        {"key": "x", "status": "finished", "initial_loss": float("inf"), "budget": {"a": [1.0]}}
    )
    assert load_rows(tmp_path)[0]["initial_loss"] is None


def test_a_table_is_a_frame_where_pandas_is(tmp_path):
    carry_out(configure(), tmp_path)
    carry_out(configure(seed=1), tmp_path)
    frame = load_results(tmp_path)
    assert sorted(frame["seed"]) == [0, 1]
    assert set(frame["overrides.n_candidates"]) == {6}


def test_a_table_is_rows_where_pandas_is_not(tmp_path, monkeypatch):
    row = carry_out(configure(), tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert load_results(tmp_path) == [row]


def test_what_is_no_table_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="there is no table of results at"):
        load_results(tmp_path / "nowhere")
    (tmp_path / "x.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no table of results"):
        load_rows(tmp_path / "x.jsonl")


def test_a_damaged_row_is_named(tmp_path):
    carry_out(configure(), tmp_path)
    ResultsTable(tmp_path).folder(configure().key).row.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"row\.json' cannot be read .* Delete it"):
        load_rows(tmp_path)
