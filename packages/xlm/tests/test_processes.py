"""What can only be seen from outside: a run that is killed, and one of several processes."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from pellucid.xlm._app import run

TESTS = Path(__file__).parent
NAMED = ["job_type=train", "experiment=rows_tinyfam"]
XLM = Path(sysconfig.get_path("scripts")) / "xlm"


def start(directory, *arguments):
    return subprocess.Popen(
        [sys.executable, str(XLM), *NAMED, *arguments],
        cwd=directory,
        env={**os.environ, "XLM_MODELS_PATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def losses_of(directory):
    found = {}
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "train/loss" in row:
            found.setdefault(row["step"], []).append(row["train/loss"])
    return found


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    long = ["trainer_strategy=cpu", "trainer.max_steps=400", "trainer.val_check_interval=400"]
    killed = start(tmp_path, "job_name=killed", *long)
    log = tmp_path / "logs" / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not log.is_file() or log.read_text().count("train/loss") < 30:
        assert time.monotonic() < deadline, killed.communicate()[0]
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    reached = len(losses_of(log.parent))
    assert reached < 400
    assert "resuming from" in finish(start(tmp_path, "job_name=killed", *long))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_MODELS_PATH", str(TESTS))
    assert run([*NAMED, "job_name=whole", *long]) == 0
    resumed, whole = losses_of(log.parent), losses_of(tmp_path / "logs" / "whole")
    # A step that was logged before the kill and again after the resume has one loss.
    assert {step: set(found) for step, found in resumed.items()} == {
        step: set(found) for step, found in whole.items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="gloo on loopback is tried on Linux")
def test_two_processes_share_a_run(tmp_path):
    two = ["trainer_strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    short = ["trainer.max_steps=4", "trainer.val_check_interval=2"]
    output = finish(start(tmp_path, "job_name=two", *two, *short))
    assert "on 2 cpu" in output
    logs = tmp_path / "logs" / "two"
    assert len(losses_of(logs)) == 4
    (path,) = (logs / "predictions" / "val" / "prediction").glob("*step=4.jsonl")
    rows = [json.loads(line)["row"] for line in path.read_text().splitlines()]
    assert sorted(rows) == list(range(8))
