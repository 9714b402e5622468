import json
import random
import signal
import subprocess
import sys
import time
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from pellucid.core import ArgumentError, CheckpointError, MissingDependencyError
from pellucid.testing import tiny_llama, tiny_tokenizer
from pellucid.tptt import TpttModel, load_base_model
from pellucid.tptt._train_config import TrainConfig, read_command_line
from pellucid.tptt._train_data import IGNORED, PadRows, encode_chat, read_data
from pellucid.tptt.train import LOG, MODEL, main, train

# peft asks transformers in a way that it is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def folder(tmp_path):
    """A tiny model, and a text to train it on."""
    tiny_llama().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    words = random.Random(0).choices("the cat sees a dog and the dog sees a cat".split(), k=600)
    (tmp_path / "text.txt").write_text(" ".join(words), encoding="utf-8")
    return tmp_path


def make(folder, out="run", **options):
    given = {
        "model": str(folder / "base"),
        "data": str(folder / "text.txt"),
        "out": str(folder / out),
        "max_length": 24,
        "batch_size": 4,
        "steps": 6,
        "log_every": 1,
        "eval_every": 3,
        "save_every": 3,
        "learning_rate": 1e-2,
        "device": "cpu",
    }
    return TrainConfig(**{**given, **options})


def weights_of(folder, out):
    return load_file(folder / out / MODEL / "model.safetensors")


def log_of(folder, out):
    return [json.loads(line) for line in (folder / out / LOG).read_text().splitlines()]


def test_a_run_learns_logs_and_leaves_a_model(folder):
    before = torch.get_rng_state(), random.getstate()
    model, _ = train(make(folder, mag_schedule="gradual", mag_steps=3, mag_weight=0.6))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    losses = [entry["loss"] for entry in log_of(folder, "run") if "loss" in entry]
    assert len(losses) == 6
    assert float(losses[-1]) < float(losses[0])
    assert [e["step"] for e in log_of(folder, "run") if "eval_loss" in e] == [3, 6]
    again = TpttModel.from_pretrained(str(folder / "run" / MODEL))
    assert again.mag_weight == 0.6
    ids = torch.arange(5, 20)[None]
    torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_only_adapters_are_trained(folder):
    base = load_file(folder / "base" / "model.safetensors")
    train(make(folder))
    trained = weights_of(folder, "run")
    name = next(
        name
        for name in trained
        if name.endswith("self_attn.base_attn.q_proj.base_layer.weight")
        or "q_proj.base_layer" in name
    )
    layer = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(trained[name], base[layer])
    assert any("lora_B" in name and value.any() for name, value in trained.items())


def test_distilling_brings_a_model_to_its_teacher(folder):
    model, _ = train(
        make(folder, objective="distill", steps=30, eval_every=30, save_every=30, lora_rank=0)
    )
    losses = [float(entry["loss"]) for entry in log_of(folder, "run") if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert model.config.lora_config is None


def test_a_run_that_is_killed_goes_on_and_ends_the_same(folder):
    options = {"steps": 40, "save_every": 5, "eval_every": 1000, "lora_dropout": 0.1}
    config = make(folder, "killed", **options)
    (folder / "run.yaml").write_text(json.dumps(config.to_mapping()), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "pellucid.tptt.train", "--config", str(folder / "run.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = folder / "killed" / "checkpoint-10" / "trainer_state.json"
    until = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "killed" / MODEL).exists()
    # what a kill within a save leaves
    (folder / "killed" / "checkpoint-99").mkdir()
    (folder / "killed" / "checkpoint-99" / "trainer_state.json").write_text("{")
    train(make(folder, "killed", resume=True, **options))
    train(make(folder, "whole", **options))
    killed, whole = weights_of(folder, "killed"), weights_of(folder, "whole")
    assert killed.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, rtol=0, atol=0, msg=name)
    steps = [entry["step"] for entry in log_of(folder, "killed") if "loss" in entry]
    assert steps == list(range(1, 41))


def test_the_best_model_is_what_is_left(folder):
    config = make(folder, save_best=True, steps=9, learning_rate=3.0, warmup_steps=0)
    train(config)
    losses = {e["step"]: float(e["eval_loss"]) for e in log_of(folder, "run") if "eval_loss" in e}
    best = min(losses, key=lambda step: losses[step])
    saved = load_file(folder / "run" / f"checkpoint-{best}" / "model.safetensors")
    for name, value in weights_of(folder, "run").items():
        assert torch.equal(saved[name], value)


def test_time_ends_a_run(folder):
    train(make(folder, max_minutes=0.0, steps=50))
    assert max(entry["step"] for entry in log_of(folder, "run")) == 1


def test_other_options_than_the_run_began_with_are_refused(folder):
    train(make(folder))
    with pytest.raises(CheckpointError, match=r"does not fit|other shapes"):
        train(make(folder, resume=True, lora_rank=4, steps=12))


def test_the_questions_of_the_zoo_are_chats():
    _, tokenizer = load_base_model("zoo:tiny-chat")
    rows, held_out = read_data(
        "zoo:questions", None, tokenizer, max_length=64, model="zoo:tiny-chat"
    )
    assert (len(rows), len(held_out)) == (100, 200)
    row = rows[0]
    answer = [each for each in row["labels"] if each != IGNORED]
    assert row["input_ids"][-len(answer) :] == answer
    assert tokenizer.decode(answer).endswith(tokenizer.eos_token)


def test_chats_of_a_file_are_read(tmp_path):
    _, tokenizer = load_base_model("zoo:tiny-chat")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{json.dumps({'messages': chat})}\n" * 10, encoding="utf-8")
    rows, held_out = read_data(str(path), None, tokenizer, max_length=64, model="any")
    assert (len(rows), len(held_out)) == (9, 1)
    assert rows[0] == encode_chat(chat, tokenizer)
    path.write_text('{"messages": [{"role": "user"}]}\n', encoding="utf-8")
    with pytest.raises(ArgumentError, match="messages of role and content"):
        read_data(str(path), None, tokenizer, max_length=64, model="any")
    with pytest.raises(ArgumentError, match="must end with the assistant's words"):
        encode_chat(chat[:1], tokenizer)


def test_rows_are_padded_on_the_right():
    batch = PadRows(9)(
        [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, IGNORED, IGNORED]]


def test_the_command_line_goes_before_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7\nseed: 3\nreport_to: wandb\nmax_minutes: 2\n", encoding="utf-8")
    config = read_command_line(["--config", str(path), "--steps", "9", "--cross-gate"])
    assert (config.steps, config.seed, config.max_minutes) == (9, 3, 2.0)
    assert config.report_to == ("wandb",)
    assert config.cross_gate
    assert TrainConfig.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"step": 3}, r"no option 'step'\. Did you mean 'steps'"),
        ({"steps": "many"}, r"steps must be a whole number, got 'many'"),
        ({"steps": 1.5}, r"steps must be a whole number, got 1\.5"),
        ({"steps": 0}, r"steps must be 1 or more, got 0"),
        ({"resume": "yes"}, r"resume must be true or false, got 'yes'"),
        ({"objective": "destill"}, r"objective must be one of finetune, distill, got 'destill'"),
        ({"device": "gpu"}, r"device must be auto or cpu, got 'gpu'"),
        ({"temperature": 0}, r"temperature above 0"),
    ],
)
def test_bad_options_are_refused(values, match):
    with pytest.raises(ArgumentError, match=match):
        TrainConfig.from_mapping(values)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--operator-mode", "delta_rull"], "Did you mean 'delta_rule'"),
        (["--model", "zoo:tiny-chap"], "Did you mean 'tiny-chat'"),
        (["--model", "zo:tiny-chat"], "source of models 'zo'"),
        (["--data", "no-such-file.txt"], "no-such-file.txt"),
        (["--config", "no-such-file.yaml"], "no-such-file.yaml"),
        (["--target-modules", "attnn"], "has no module of"),
        (["--max-length", "3"], "max_length is 3"),
        (["--report-to", "wandbb"], "reports to no service 'wandbb'"),
    ],
)
def test_bad_input_is_one_line(options, match, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["--out", str(out), "--device", "cpu", *options]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert match in said
    assert not out.exists()


class _Service(TrainerCallback):
    """Stands for the service that a Trainer reports to."""

    entries: ClassVar[list[dict]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.entries.append({"step": state.global_step, **logs})


def test_a_service_is_told_what_the_log_holds(folder, monkeypatch):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", _Service)
    monkeypatch.setattr(_Service, "entries", [])
    train(make(folder, report_to=("wandb",), steps=3))
    assert [entry["step"] for entry in _Service.entries if "loss" in entry] == [1, 2, 3]
    assert _Service.entries == log_of(folder, "run")


def test_a_service_that_is_not_installed_is_named(folder, monkeypatch):
    def refuse():
        raise RuntimeError("WandbCallback requires wandb")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", refuse)
    with pytest.raises(MissingDependencyError, match=r"'wandb' needs a package.*requires wandb"):
        train(make(folder, report_to=("wandb",)))
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("at", "where"), [(2, "from the beginning, for want of a checkpoint"), (4, "checkpoint-3'")]
)
def test_ctrl_c_ends_a_run_with_what_to_do_next(at, where, folder, monkeypatch, capsys):
    class Interrupting(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            if state.global_step == at:
                raise KeyboardInterrupt

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", Interrupting)
    config = make(folder, report_to=("wandb",)).to_mapping()
    (folder / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert main(["--config", str(folder / "run.yaml")]) == 130
    err = capsys.readouterr().err
    (said,) = (line for line in err.splitlines() if line.startswith("pellucid.tptt.train: "))
    assert "stopped. With --resume the same command goes on" in said
    assert said.endswith(f"{where}.")
    assert "Traceback" not in err
    monkeypatch.delitem(INTEGRATION_TO_CALLBACK, "wandb")
    train(make(folder, resume=True))
    assert log_of(folder, "run")[-1]["step"] == 6


def test_a_run_is_not_written_over(folder, capsys):
    train(make(folder))
    with pytest.raises(ArgumentError, match=r"holds a run already\. Add --resume"):
        train(make(folder))
