"""`pellucid demo`: its first stage in earnest, the others by what they share."""

import json
import shlex
from typing import Any

import pytest

from pellucid.cli._demo import make_request
from pellucid.cli._tour_sections import Grid, Section, Table
from pellucid.testing import TinyLM


class Parrot(TinyLM):
    """Says the goal of the demonstration whatever it is asked."""

    def __call__(self, input_texts: list[str], **kwargs: Any) -> Any:
        super().__call__(input_texts, **kwargs)
        return list(make_request(0).targets) * len(input_texts)


@pytest.fixture
def parrot(tiny, monkeypatch):
    from pellucid.cli import _setup

    monkeypatch.setattr(_setup, "load_model", lambda spec, base_url=None: Parrot(seed=1))
    return tiny


@pytest.fixture
def short(monkeypatch):
    """Makes the search two steps long."""
    import dataclasses

    from pellucid.cli import _tour_optimize

    def shorten(seed):
        return dataclasses.replace(make_request(seed), steps=2, candidates=4)

    monkeypatch.setattr(_tour_optimize, "make_request", shorten)


@pytest.fixture
def stages(monkeypatch):
    """Stages of no time; whoever is named in the list that is given fails."""
    from pellucid.cli import _tour

    failing: dict[str, BaseException] = {}

    def load(name):
        def stage(out, seed, console):
            if name in failing:
                raise failing[name]
            console.print(f"{name} with {seed}")
            grid = Grid(title="a grid", head=["<b>"], labels=["r"], cells=[[("<i>", 0.5)]])
            table = Table(title="a table", head=("a", "b"), rows=[("x", "<script>")])
            return Section(
                said=f"{name} went well.",
                figures=[("Seed", str(seed))],
                pictures=[table, grid],
                commands=[f"pellucid {name} --seed {seed}"],
            )

        return stage

    monkeypatch.setattr(_tour, "_load", load)
    return failing


def test_the_model_is_brought_to_the_goal(command, tmp_path):
    done = command("demo", "--only", "optimize,inspect", "--out", tmp_path / "tour")
    assert done.code == 0, done.err
    run = tmp_path / "tour" / "optimize"
    result = json.loads((run / "result.json").read_text())
    request = make_request(0)
    assert (result["goal_reached"], result["stop_reason"]) == (True, "success")
    assert result["answer_before"] == result["answer_initial"] != result["answer_after"]
    assert result["answer_after"] == request.targets[0]
    for told in (result["answer_before"], request.targets[0], "report.html", "pellucid inspect"):
        assert told in done.out
    assert abs(result["verified_loss"] - result["best_loss"]) < 1e-3
    assert result["tokenization_gap"] == 0
    page = (tmp_path / "tour" / "report.html").read_text(encoding="utf-8")
    assert "Without the trigger" in page
    assert "yellow 100%" in page
    for link in ("optimize/report.html", "inspect/trigger.html"):
        assert f'href="{link}"' in page
        assert (tmp_path / "tour" / link).is_file()


def test_the_command_it_prints_makes_the_same_run(parrot, short, tmp_path):
    done = parrot("demo", "--only=optimize", "--seed=4", "--out", tmp_path / "demo")
    (line,) = (line for line in done.out.splitlines() if "the same: pellucid optimize" in line)
    name, *options = shlex.split(line.partition("the same: ")[2])
    assert name == "pellucid"
    assert options[-2:] == ["--out", "NEW_DIRECTORY"]
    assert parrot(*options[:-1], tmp_path / "again").code == 0
    folders = (tmp_path / "demo" / "optimize", tmp_path / "again")
    configs = [(folder / "config.json").read_text() for folder in folders]
    assert configs[0] == configs[1]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    for result in results:
        del result["elapsed_s"]
    assert results[0] == results[1]
    assert results[0]["seed"] == 4


def test_a_missed_goal_is_said_and_is_no_success(tiny, short, tmp_path):
    done = tiny("demo", "--only", "optimize", "--out", tmp_path / "run")
    assert done.code == 1
    assert "The goal was not reached in 2 steps. Try another --seed." in done.out
    result = json.loads((tmp_path / "run" / "optimize" / "result.json").read_text())
    assert result["goal_reached"] is False
    assert "The goal was missed" in (tmp_path / "run" / "report.html").read_text()


def test_an_interrupted_tour_writes_what_there_is(tiny, short, tmp_path, monkeypatch):
    from pellucid.cli._interrupt import Interrupt

    monkeypatch.setattr(Interrupt, "__call__", lambda self, step: True)
    done = tiny("demo", "--out", tmp_path / "run")
    assert done.code == 130
    assert "Not reached" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "optimize" / "result.json").is_file()


def test_a_directory_is_chosen_when_none_is_named(command, stages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("demo").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("demo-")
    assert (run / "report.html").is_file()


def test_all_stages_are_shown_in_their_order(command, stages, tmp_path):
    done = command("demo", "--seed", "7", "--out", tmp_path / "tour")
    assert done.code == 0
    names = ["optimize", "inspect", "linearize", "train"]
    assert [line.split()[0] for line in done.err.splitlines() if " with 7" in line] == names
    page = (tmp_path / "tour" / "report.html").read_text()
    assert sorted(names, key=lambda name: page.index(f'<section id="{name}">')) == names
    for name in names:
        assert f"<pre>pellucid {name} --seed 7</pre>" in page
    assert "<script>" not in page
    assert "&lt;i&gt;" in page
    assert "Left out" not in page


def test_a_stage_that_fails_keeps_no_other_from_running(command, stages, tmp_path):
    stages["inspect"] = ValueError("no <light> in here")
    done = command("demo", "--out", tmp_path / "tour")
    assert done.code == 1
    assert "This stage failed: ValueError: no <light> in here" in done.err
    assert [line.split()[-1] for line in done.out.splitlines() if " s  " in line] == [
        "done", "failed", "done", "done",
    ]  # fmt: skip
    page = (tmp_path / "tour" / "report.html").read_text()
    assert "ValueError: no &lt;light&gt; in here" in page
    assert "train went well." in page


@pytest.mark.parametrize(
    "only", [["--only", "train,optimize"], ["--only=optimize", "--only", "train"]]
)
def test_stages_are_chosen(command, stages, tmp_path, only):
    done = command("demo", *only, "--out", tmp_path / "tour")
    assert [line.split()[0] for line in done.err.splitlines() if " with 0" in line] == [
        "optimize", "train",
    ]  # fmt: skip
    page = (tmp_path / "tour" / "report.html").read_text()
    assert "pellucid demo --only linearize" in page


def test_bad_input_is_one_line(command, stages, tmp_path):
    done = command("demo", "--only", "optimise", "--out", tmp_path / "tour")
    assert done.code == 2
    assert "'optimise'" in done.err
    assert "optimize" in done.err
    assert not (tmp_path / "tour").exists()
    done = command("demo", "--only", "train", "--out", tmp_path)
    assert done.code == 2
    assert "exists" in done.err


def test_a_command_that_fails_is_named_with_its_last_line(tmp_path):
    from pellucid.cli._tour_commands import StageError, run_command

    log = tmp_path / "deep" / "log.txt"
    with pytest.raises(StageError, match=r"`python -c .*exit code 3: too bad All that.*log\.txt"):
        run_command(["python", "-c", "print('too bad'); raise SystemExit(3)"], log)
    run_command(["pellucid", "--version"], log)
    assert log.read_text().startswith("pellucid ")
    run_command(["xlm", "--version"], log)
    assert log.read_text().startswith("xlm ")
