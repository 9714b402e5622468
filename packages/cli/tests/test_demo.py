import json
import shlex
from typing import Any

import pytest

from pellucid.cli._demo import make_request
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
    """Makes the demonstration two steps long."""
    import dataclasses

    from pellucid.cli import _demo

    def shorten(seed):
        return dataclasses.replace(make_request(seed), steps=2, candidates=4)

    monkeypatch.setattr(_demo, "make_request", shorten)


def test_the_model_is_brought_to_the_goal(command, tmp_path):
    run = tmp_path / "run"
    done = command("demo", "--out", run)
    assert done.code == 0, done.err
    result = json.loads((run / "result.json").read_text())
    request = make_request(0)
    assert (result["goal_reached"], result["stop_reason"]) == (True, "success")
    assert result["answer_before"] == result["answer_initial"] != result["answer_after"]
    assert result["answer_after"] == request.targets[0]
    for told in (result["answer_before"], request.targets[0], str(run / "report.html")):
        assert told in done.out
    assert abs(result["verified_loss"] - result["best_loss"]) < 1e-3
    assert result["tokenization_gap"] == 0


def test_the_command_it_prints_makes_the_same_run(parrot, short, tmp_path):
    done = parrot("demo", "--seed=4", "--out", tmp_path / "demo")
    (line,) = (line for line in done.out.splitlines() if line.startswith("The same run: "))
    name, *options = shlex.split(line.removeprefix("The same run: "))
    assert name == "pellucid"
    assert parrot(*options, "--out", tmp_path / "again").code == 0
    configs = [(tmp_path / n / "config.json").read_text() for n in ("demo", "again")]
    assert configs[0] == configs[1]
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("demo", "again")]
    for result in results:
        del result["elapsed_s"]
    assert results[0] == results[1]
    assert results[0]["seed"] == 4


def test_a_missed_goal_is_said_and_is_no_success(tiny, short, tmp_path):
    done = tiny("demo", "--out", tmp_path / "run")
    assert done.code == 1
    assert "The goal was not reached in 2 steps. Try another --seed." in done.out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["goal_reached"] is False


def test_an_interrupted_demonstration_says_so(tiny, short, tmp_path, monkeypatch):
    from pellucid.cli._interrupt import Interrupt

    monkeypatch.setattr(Interrupt, "__call__", lambda self, step: True)
    done = tiny("demo", "--out", tmp_path / "run")
    assert done.code == 130
    assert "--resume" in done.out


def test_a_directory_is_chosen_when_none_is_named(parrot, short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parrot("demo").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("demo-")
