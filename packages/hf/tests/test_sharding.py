"""Two processes find what one does."""

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pellucid.hf import shard_candidates

SCRIPT = Path(__file__).parent / "sharded_search.py"


def load_script():
    spec = importlib.util.spec_from_file_location("sharded_search", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
    ]
    options = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    port = f"--main_process_port={free_port()}"
    done = subprocess.run(
        [*command, *options, port, str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]


def test_processes_agree_to_the_bit(found):
    first, second = found
    for name in ("losses", "trigger", "usage"):
        assert first[name] == second[name]


def test_they_find_what_one_process_does(found):
    script = load_script()
    alone = script.search(script.prepare())
    ours, theirs = (torch.tensor(one["losses"]) for one in (found[0], alone))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert found[0]["trigger"] == alone["trigger"]


def test_usage_is_that_of_all_processes(found):
    script = load_script()
    alone = script.search(script.prepare())["usage"]
    usage = found[0]["usage"]
    # A share may hold one row more than it needs, in each of two templates and three steps.
    assert 0 <= usage["forward_samples"] - alone["forward_samples"] <= 2 * 3
    assert usage["grad_samples"] == alone["grad_samples"]
    assert usage["total_tokens"] >= alone["total_tokens"]


def test_different_candidates_are_refused_by_all(found):
    for one in found:
        assert "2 processes were given different candidates" in one["refused"]


def test_one_process_changes_nothing():
    script = load_script()
    lm = script.prepare()
    assert shard_candidates(lm) is lm
    assert script.search(lm) == script.search(script.prepare())


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"models of pellucid\.hf alone, got Linear"):
        shard_candidates(torch.nn.Linear(2, 2))


def test_accelerate_may_be_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TypeError, match=r"Install pellucid-hf\[accelerate\]"):
        shard_candidates(load_script().prepare())
