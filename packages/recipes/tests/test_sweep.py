"""Sweeps in processes of their own, killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.recipes import RecipeConfig, ResultsTable, carry_out, load_rows

SEEDS = range(4)
N_STEPS = 20
ARGUMENTS = [
    "recipe=gcg__zou2023",
    "model=zoo:tiny-chat",
    f"seed={','.join(map(str, SEEDS))}",
    f"num_steps={N_STEPS}",
    "checkpoint_every=2",
    "initial_trigger='! ! ! !'",
    "overrides.n_candidates=8",
    "overrides.sample_topk=16",
    "--multirun",
]


def configure(seed: int) -> RecipeConfig:
    """The run of a seed, as the sweep's command line has it."""
    return RecipeConfig.from_mapping(
        {
            "recipe": "gcg__zou2023",
            "model": "zoo:tiny-chat",
            "templates": ["What colour is Mira's bicycle? {{OPTIMIZED_TRIGGER}}"],
            "targets": ["Mira's bicycle is purple."],
            "seed": seed,
            "num_steps": N_STEPS,
            "initial_trigger": "! ! ! !",
            "overrides": {"n_candidates": 8, "sample_topk": 16},
        }
    )


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PELLUCID_TYPECHECK": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pellucid.recipes", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(condition, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        if process.poll() is not None:
            pytest.fail(process.communicate()[0].decode())
        time.sleep(0.005)


def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path):
    out = tmp_path / "sweep"
    configs = [configure(seed) for seed in SEEDS]
    folders = [ResultsTable(out).folder(config.key) for config in configs]

    killed = start(*ARGUMENTS, f"out={out}")
    # In the middle of the second run, when its checkpoint is there.
    wait_for(folders[1].has_checkpoint, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    statuses = {row["key"]: row["status"] for row in load_rows(out)}
    assert statuses == {configs[0].key: "finished", configs[1].key: "unfinished"}
    written = folders[0].row.stat().st_mtime_ns

    # Two processes share what is left.
    both = [start(*ARGUMENTS, f"out={out}") for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
    assert folders[0].row.stat().st_mtime_ns == written
    rows = {row["key"]: row for row in load_rows(out / "results.jsonl")}
    assert {row["status"] for row in rows.values()} == {"finished"}
    for config in configs[:2]:
        whole = carry_out(config, tmp_path / "whole")
        for name in ("best_loss", "best_trigger", "initial_loss", "steps", "stop_reason"):
            assert rows[config.key][name] == whole[name]
        steps = [
            Path(place, "runs", config.key, "steps.jsonl").read_text().splitlines()
            for place in (out, tmp_path / "whole")
        ]
        assert len(steps[0]) == len(steps[1]) == N_STEPS


def test_settings_of_every_kind_go_through_hydra(tmp_path, monkeypatch):
    from pellucid.recipes import _hydra_app

    asked = []

    def carry_out(config, out, **how):
        asked.append((config, out))
        return {"key": "", "recipe": "", "seed": 0, "status": "finished", "best_loss": 1.5}

    monkeypatch.setattr(_hydra_app, "carry_out", carry_out)
    monkeypatch.chdir(tmp_path)
    argv = list(sys.argv)
    _hydra_app.main(
        [
            "recipe=classifier_gcg",
            "model=hf-classifier:some/model",
            'templates=["a {{OPTIMIZED_TRIGGER}}","b {{OPTIMIZED_TRIGGER}}"]',
            "targets={true_class_idx:[0,1]}",
            "overrides.n_candidates=4",
            "loss_overrides.misclass-ce={targeted:false}",
            "budget.limit=100",
            "out=table",
        ]
    )
    ((config, out),) = asked
    assert out == "table"
    assert config.targets == {"true_class_idx": [0, 1]}
    assert config.templates == ["a {{OPTIMIZED_TRIGGER}}", "b {{OPTIMIZED_TRIGGER}}"]
    assert config.overrides == {"n_candidates": 4}
    assert config.loss_overrides == {"misclass-ce": {"targeted": False}}
    assert config.budget == {"limit": 100}
    assert sys.argv == argv
