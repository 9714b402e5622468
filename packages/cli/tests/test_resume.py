import json
import shutil
from pathlib import Path

import pytest


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def comparable(run: Path) -> list[dict[str, object]]:
    """Return the steps without the one column that no two runs share."""
    return [{name: v for name, v in row.items() if name != "elapsed_s"} for row in rows(run)]


def result_of(run: Path) -> dict[str, object]:
    result = json.loads((run / "result.json").read_text())
    del result["elapsed_s"]
    return result


@pytest.fixture
def whole(tiny, asked, tmp_path):
    """A run of six steps that nothing interrupted."""
    assert tiny(*asked, "--steps=6", "--out", tmp_path / "whole").code == 0
    return tmp_path / "whole"


@pytest.fixture
def begun(tiny, asked, tmp_path):
    """A run that is over after three steps."""
    assert tiny(*asked, "--steps=3", "--out", tmp_path / "begun").code == 0
    return tmp_path / "begun"


def test_a_run_in_two_parts_is_the_run_in_one(tiny, whole, begun):
    done = tiny("optimize", "--resume", begun, "--steps=6")
    assert done.code == 0, done.err
    assert comparable(begun) == comparable(whole)
    assert result_of(begun) == result_of(whole)
    config, other = (json.loads((run / "config.json").read_text()) for run in (begun, whole))
    assert config == other


@pytest.mark.parametrize("optimizer", ["gcg", "random-search"])
@pytest.mark.parametrize("last", [1, 2, 5])
def test_an_interrupted_run_goes_on_bit_for_bit(
    tiny, asked, tmp_path, monkeypatch, optimizer, last
):
    from pellucid.cli._interrupt import Interrupt

    options = [*asked, "--steps=6", f"--optimizer={optimizer}"]
    options = [o for o in options if optimizer == "gcg" or not o.startswith("--topk")]
    tiny(*options, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "__call__", lambda self, step: step.step == last)
        done = tiny(*options, "--out", tmp_path / "parts")
    assert done.code == 130
    assert len(rows(tmp_path / "parts")) == last
    assert result_of(tmp_path / "parts")["stop_reason"] == "interrupted"
    assert "--resume" in done.out
    assert "--resume" in (tmp_path / "parts" / "report.html").read_text()
    assert tiny("optimize", "--resume", tmp_path / "parts").code == 0
    assert comparable(tmp_path / "parts") == comparable(tmp_path / "whole")
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(tiny, whole, begun):
    row = {**rows(begun)[-1], "step": 4, "trigger": "never checkpointed"}
    with (begun / "steps.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n" + '{"step": 5, "lo')
    (begun / "result.json").unlink()
    assert tiny("optimize", "--resume", begun, "--steps=6").code == 0
    assert comparable(begun) == comparable(whole)


def test_resuming_a_finished_run_changes_nothing_of_it(tiny, whole):
    steps, result = rows(whole), result_of(whole)
    done = tiny("optimize", "--resume", whole)
    assert done.code == 0, done.err
    assert rows(whole) == steps
    assert result_of(whole) == result


def test_a_spent_budget_may_be_raised(tiny, asked, tmp_path):
    run = tmp_path / "run"
    tiny(*asked, "--steps=6", "--budget-tokens=300", "--out", run)
    assert result_of(run)["stop_reason"] == "budget"
    done = tiny("optimize", "--resume", run, "--budget-tokens=1000000")
    assert done.code == 0, done.err
    assert (result_of(run)["stop_reason"], len(rows(run))) == ("steps", 6)


def test_options_that_agree_with_the_run_may_be_repeated(tiny, asked, begun):
    options = [option for option in asked if option != "optimize"]
    assert tiny("optimize", "--resume", begun, *options).code == 0


def test_a_run_at_its_goal_stays_as_it_is(tiny, begun):
    result = {**json.loads((begun / "result.json").read_text()), "stop_reason": "success"}
    (begun / "result.json").write_text(json.dumps(result))
    before = snapshot(begun)
    done = tiny("optimize", "--resume", begun, "--steps=9")
    assert done.code == 0
    assert "nothing to go on with" in done.err
    assert snapshot(begun) == before


CONTRADICTIONS = {
    "--seed=4": "which was begun with --seed 3. With --resume, leave it out",
    "--model=another": "--model 'another' contradicts",
    "--optimizer=random-search": "--optimizer 'random-search' contradicts",
    "--target=a dog": "--target 'a dog' contradicts",
    "--base-url=http://localhost": "which was begun with no --base-url",
    "--no-stop": "which was begun with no --no-stop",
    "--topk=3": "--topk 3 contradicts",
    "--steps=2": "--steps 2 is less than the 3 steps",
    "--steps=0": "--steps must be at least 1, got 0",
    "--out=elsewhere": "leave --out 'elsewhere' out",
}


@pytest.mark.parametrize("option", CONTRADICTIONS)
def test_options_that_contradict_the_run_are_refused(tiny, begun, option):
    before = snapshot(begun)
    done = tiny("optimize", "--resume", begun, option)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert CONTRADICTIONS[option] in done.err
    assert snapshot(begun) == before


def edit_config(**changes):
    def edit(run):
        config = {**json.loads((run / "config.json").read_text()), **changes}
        (run / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != ...}))

    return edit


def replace(name, text):
    return lambda run: (run / name).write_text(text)


def drop_first_row(run):
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(lines[1:]))


def drop_last_row(run):
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(lines[:-1]))


def cut_checkpoint(run):
    path = run / "checkpoint" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


DAMAGE = {
    "no config": (lambda run: (run / "config.json").unlink(), "config.json: it is missing"),
    "config is no JSON": (replace("config.json", "{"), "config.json: it is not JSON"),
    "config is no object": (replace("config.json", "[1]"), "config.json: it does not hold"),
    "config is no text": (
        lambda run: (run / "config.json").write_bytes(b"\xff\xfe\xfd"),
        "config.json: it cannot be read",
    ),
    "config of another format": (edit_config(format=99), "its format is 99, expected 1"),
    "config without seed": (edit_config(seed=...), "'seed' is missing"),
    "config with a wrong type": (edit_config(steps="6"), "'steps' is '6', expected int"),
    "config with a boolean": (edit_config(steps=True), "'steps' is True, expected int"),
    "config with a text for a list": (edit_config(templates="x"), "'templates' is 'x', expected"),
    "config with a wrong value": (edit_config(steps=-1), "--steps must be at least 1, got -1"),
    "config of another optimizer": (edit_config(optimizer="gone"), "unknown optimizer 'gone'"),
    "config with another template": (
        edit_config(templates=["You see {{OPTIMIZED_TRIGGER}}."]),
        "belongs to another run: templates differ",
    ),
    "no steps": (lambda run: (run / "steps.jsonl").unlink(), "steps.jsonl: it is missing"),
    "a damaged row": (replace("steps.jsonl", "nonsense\n"), "line 1 is not the row of step 1"),
    "the first row gone": (drop_first_row, "line 1 is not the row of step 1"),
    "the last row gone": (drop_last_row, "from step 3, and steps.jsonl ends with step 2"),
    "a damaged result": (replace("result.json", "{]"), "result.json: it is not JSON"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoint"), "there is no checkpoint at"),
    "a cut checkpoint": (cut_checkpoint, "cannot be read"),
    "an empty checkpoint": (replace("checkpoint/state.safetensors", ""), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_is_one_clear_line_and_stays_as_it_is(tiny, begun, kind):
    damage, expected = DAMAGE[kind]
    damage(begun)
    before = snapshot(begun)
    done = tiny("optimize", "--resume", begun, "--steps=6")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert expected in done.err
    assert done.out == ""
    assert snapshot(begun) == before


def test_a_file_or_an_empty_directory_is_no_run(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "there is no run directory" in tiny("optimize", "--resume", tmp_path / "file").err
    assert "config.json: it is missing" in tiny("optimize", "--resume", tmp_path / "empty").err
    assert "there is no run directory" in tiny("optimize", "--resume", tmp_path / "nothing").err
