import json
import logging
import math
from pathlib import Path

import pytest

from pellucid.xlm._app import run
from pellucid.xlm._checkpoint_callback import checkpoints_in

TESTS = Path(__file__).parent
NAMED = ["job_name=t", "experiment=rows_tinyfam", "trainer_strategy=cpu"]


@pytest.fixture(autouse=True)
def workplace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_MODELS_PATH", str(TESTS))


def losses_of(directory):
    found = {}
    for line in (Path(directory) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "train/loss" in row:
            found[row["step"]] = row["train/loss"]
    return found


def test_help_teaches_and_imports_nothing_heavy(capsys):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("job_type", "debug=smoke", "examples", "xlm doctor", "eval.ckpt_path"):
        assert word in shown or word.partition(" ")[2] in shown


def test_a_run_is_trained_measured_sampled_and_extracted(capsys, tmp_path):
    assert run(["job_type=train", *NAMED]) == 0
    assert "12 steps, from the beginning" in capsys.readouterr().out
    logs = tmp_path / "logs" / "t"
    manifest = json.loads((logs / "manifest.json").read_text())
    assert manifest["seed"] == 1
    assert manifest["versions"]["torch"]
    assert manifest["data"] == {"rows": pytest.approx(manifest["data"]["rows"])}
    assert (logs / "config.yaml").is_file()
    assert sorted(losses_of(logs)) == list(range(12))
    saved = [path.name for path in checkpoints_in(logs / "checkpoints")]
    assert saved == ["step_00000010.ckpt", "step_00000012.ckpt"]
    assert list((logs / "checkpoints").glob("best_step_*.ckpt"))
    tested = json.loads((logs / "results_test_step=12.json").read_text())

    last = f"{logs}/checkpoints/step_00000012.ckpt"
    assert run(["job_type=eval", f"eval.ckpt_path={last}", *NAMED]) == 0
    assert "test/lm/perplexity" in capsys.readouterr().out
    assert json.loads((logs / "results_test_step=12.json").read_text()) == tested

    # The validation split reports as much of a checkpoint, though not during the training.
    assert run(["job_type=eval", "eval.split=val", *NAMED]) == 0
    found = json.loads((logs / "results_val_step=12.json").read_text())
    nats = found["val/lm/nll_bound"]
    assert found["val/lm/perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert "nll_bound" not in (logs / "metrics.jsonl").read_text().replace("test/lm/nll_bound", "")

    assert run(["job_type=generate", *NAMED]) == 0
    assert len(list((logs / "predictions" / "predict" / "prediction").glob("*.jsonl"))) == 1
    assert "wrote" in capsys.readouterr().out

    assert run(["job_type=extract_checkpoint", *NAMED]) == 0
    assert (logs / "model.safetensors").is_file()

    assert run(["job_type=name", *NAMED]) == 0
    assert capsys.readouterr().out.endswith("\nt\n")


def test_a_second_run_of_a_name_resumes_it(capsys, tmp_path):
    assert run(["job_type=train", "trainer.max_steps=6", *NAMED]) == 0
    assert run(["job_type=train", *NAMED]) == 0
    assert "resuming from" in capsys.readouterr().out
    resumed = losses_of("logs/t")
    assert run(["job_type=train", "job_name=u", *NAMED[1:]]) == 0
    assert resumed == losses_of("logs/u")

    assert run(["job_type=train", "model.d_model=32", *NAMED]) == 2
    assert "model.d_model was 16, is 32" in capsys.readouterr().err


def test_a_debug_run_saves_no_more_than_it_says(tmp_path):
    assert run(["job_type=train", "debug=overfit", "trainer.max_steps=3", *NAMED]) == 0
    assert not (tmp_path / "logs" / "t" / "checkpoints").exists()


BAD = [
    (["train"], "'train' is neither KEY=VALUE nor a command"),
    (["job_type=train", "job_name=t", "experiment=rows_tinyfan"], "Did you mean 'rows_tinyfam'"),
    (["job_type=train", "job_name=t"], "no datamodule was chosen"),
    (["job_type=trian", *NAMED], "unknown job_type 'trian'. Did you mean 'train'"),
    (["job_type=train", "experiment=rows_tinyfam"], "job_name is missing"),
    (["job_type=train", "experiment=rows_tinyfam", "job_name=../x"], "no name for a directory"),
    (["job_type=eval", *NAMED], "holds no checkpoint; train first"),
    (["job_type=eval", "eval.split=tset", *NAMED], "unknown eval.split 'tset'"),
    (["job_type=eval", "eval.ckpt_path=nowhere.ckpt", *NAMED], "no checkpoint at 'nowhere.ckpt'"),
    (["job_type=train", "resume_checkpoint_path=no.ckpt", *NAMED], "no checkpoint at resume_check"),
    (["job_type=train", "model.width=3", *NAMED], "unknown configuration key 'width'"),
    (["job_type=train", "+model.width=3", *NAMED], "unexpected keyword argument 'width'"),
    (["job_type=train", "optimizer.lr=fast", *NAMED], "'optimizer' cannot be built"),
    (["--config-dir", "nowhere", "job_type=train", *NAMED], "nowhere' is no directory"),
    (["job_type=push_to_hub", *NAMED], "needs hub.repo_id"),
    (
        ["job_type=train", *NAMED[:2], "trainer_strategy=fsdp", "trainer.accelerator=cpu"],
        "'trainer' cannot be built: The strategy `fsdp` requires a GPU",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_two(capsys, arguments, message):
    assert run(arguments) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in shown if line.startswith("xlm: ")]) == 1
    assert message in shown[-1]


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_damaged_checkpoint_is_one_message(capsys, tmp_path, content):
    assert run(["job_type=train", "trainer.max_steps=2", *NAMED]) == 0
    (path,) = checkpoints_in(tmp_path / "logs" / "t" / "checkpoints")
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    capsys.readouterr()
    assert run(["job_type=train", *NAMED]) == 2
    assert "is damaged or is none" in capsys.readouterr().err
    for best in path.parent.glob("best*"):
        best.unlink()
    assert run(["job_type=eval", *NAMED]) == 2
    assert "is damaged or is none" in capsys.readouterr().err


def test_families_are_listed_and_the_doctor_finds_faults(capsys, tmp_path):
    assert run(["families"]) == 0
    assert "tinyfam" in capsys.readouterr().out
    bad = tmp_path / "more" / "badfam" / "configs" / "experiment"
    bad.mkdir(parents=True)
    (bad / "hopeless.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: nothing_of_that_name\n"
    )
    (tmp_path / "xlm_models.json").write_text('{"badfam": "more/badfam"}')
    assert run(["doctor"]) == 1
    assert "problem: experiment hopeless" in capsys.readouterr().out


def test_a_sweep_runs_every_combination(tmp_path):
    short = ["trainer.max_steps=2", "optimizer.lr=0.001,0.002"]
    before = (logging.root.level, list(logging.root.handlers))
    assert run(["-m", "job_type=train", *short, *NAMED]) == 0
    for number, rate in enumerate((0.001, 0.002)):
        manifest = json.loads((tmp_path / "logs" / "t" / str(number) / "manifest.json").read_text())
        assert manifest["config"]["optimizer"]["lr"] == rate
    assert (logging.root.level, list(logging.root.handlers)) == before
