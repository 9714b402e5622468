"""Every experiment of every family composes and can be assembled; one goes all the way."""

import json

import pytest

from pellucid.xlm._app import run
from pellucid.xlm._assembly import assemble
from pellucid.xlm._compose import compose_config, list_options
from pellucid.xlm.contracts import LossFunction

EXPERIMENTS = list_options("experiment")
FAMILIES = [name.removeprefix("star_easy_") for name in EXPERIMENTS if "star_easy_" in name]


def test_there_are_experiments():
    assert {"star_easy_arlm", "star_easy_mlm", "sudoku_mlm", "text_mdlm"} <= set(EXPERIMENTS)
    assert {"arlm", "ilm", "mdlm", "mlm"} <= set(FAMILIES)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_assembled(tmp_path, experiment):
    cfg = compose_config(
        [f"experiment={experiment}", "job_name=t", "debug=smoke", f"paths.log_dir={tmp_path}"]
    )
    assembly = assemble(cfg)
    assert assembly.harness.predictor.model is assembly.harness.model
    assert cfg.choices.model.startswith("nano_")
    loss = assembly.harness.loss_function
    if loss is None:  # a family that only samples
        assert assembly.data.dataloader_names["train"] == []
        return
    assert loss.model is assembly.harness.model
    reports_bound = assembly.harness.metrics.needs_bound("test", "lm")
    assert reports_bound is (type(loss).nll_bound is not LossFunction.nll_bound)


@pytest.mark.parametrize("size", ["nano", "micro", "tiny", "small"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_composes(family, size):
    assert f"{size}_{family}" in list_options("model")
    compose_config([f"experiment=star_easy_{family}", "job_name=t", f"model={size}_{family}"])


def test_eight_examples_are_learnt_by_heart_and_then_completed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    named = ["job_name=o", "experiment=star_easy_arlm", "trainer_strategy=cpu"]
    short = ["trainer.max_steps=250", "trainer.val_check_interval=250"]
    assert run(["job_type=train", "debug=overfit", *short, *named]) == 0
    lines = (tmp_path / "logs/o/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    scores = [
        row["val/prediction/exact_match"] for row in log if "val/prediction/exact_match" in row
    ]
    assert scores[-1] == 1.0
    assert "test/prediction/exact_match              1" in capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smoke_run_trains_and_its_checkpoint_generates(tmp_path, monkeypatch, family, capsys):
    monkeypatch.chdir(tmp_path)
    named = ["job_name=s", f"experiment=star_easy_{family}", "debug=smoke", "trainer_strategy=cpu"]
    assert run(["job_type=train", *named]) == 0
    assert run(["job_type=generate", *named]) == 0
    (path,) = (tmp_path / "logs/s/predictions/predict/prediction").glob("*.jsonl")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 8
    assert run(["job_type=generate", "generation.prompts=['1 2 2 3 1 3']", *named]) == 0
    assert "1 2 2 3 1 3 ->" in capsys.readouterr().out
