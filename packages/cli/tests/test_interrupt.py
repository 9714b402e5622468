import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

# The search needs no time of its own here, so that the signal is sure to come in its midst.
PROGRAM = """
import sys, time
from pellucid.cli import _setup, run
from pellucid.testing import TinyLM

class Slow(TinyLM):
    def compute_loss_from_tokens(self, *args, **kwargs):
        time.sleep(0.05)
        return super().compute_loss_from_tokens(*args, **kwargs)

_setup.load_model = lambda spec, base_url=None: Slow(seed=1)
sys.exit(run(sys.argv[1:]))
"""


def start(*options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PELLUCID_TYPECHECK": "0"},
    )


def wait_for_rows(run: Path, number: int) -> None:
    for _ in range(1200):
        path = run / "steps.jsonl"
        if path.exists() and path.read_text().count("\n") >= number:
            return
        time.sleep(0.05)
    pytest.fail("the run made no steps within a minute")


def test_ctrl_c_ends_a_run_that_can_be_resumed(tiny, asked, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = start(*asked, "--steps=100000", "--out", str(run))
    wait_for_rows(run, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Ctrl-C: this step is finished first" in err
    assert "--resume" in out
    result = json.loads((run / "result.json").read_text())
    lines = (run / "steps.jsonl").read_text().splitlines()
    assert result["stop_reason"] == "interrupted"
    assert result["steps"] == len(lines) >= 2
    assert "Goal not reached" in (run / "report.html").read_text()
    assert not list(run.rglob(".*"))

    n_steps = len(lines) + 2
    shorter = json.loads((run / "config.json").read_text()) | {"steps": n_steps}
    (run / "config.json").write_text(json.dumps(shorter))
    assert tiny("optimize", "--resume", run).code == 0
    assert tiny(*asked, f"--steps={n_steps}", "--out", whole).code == 0
    for name in ("loss", "trigger"):
        columns = [
            [json.loads(line)[name] for line in (path / "steps.jsonl").read_text().splitlines()]
            for path in (run, whole)
        ]
        assert columns[0] == columns[1]


def test_the_second_ctrl_c_raises():
    from pellucid.cli._interrupt import Interrupt

    said = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(lambda: said.append("once more")) as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        assert said == ["once more"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == ["once more"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_leaves_signals_alone():
    from pellucid.cli._interrupt import Interrupt

    before, inside = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with Interrupt(lambda: None):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [before]


def test_ctrl_c_twice_leaves_what_can_be_resumed(tiny, asked, tmp_path, monkeypatch):
    from pellucid.cli import _optimize

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(_optimize, "ask", interrupt)
        done = tiny(*asked, "--steps=3", "--out", run)
    assert (done.code, done.err.splitlines()[-1]) == (130, "pellucid: interrupted.")
    assert not (run / "result.json").exists()
    assert tiny("optimize", "--resume", run, "--steps=4").code == 0
    assert json.loads((run / "result.json").read_text())["steps"] == 4
