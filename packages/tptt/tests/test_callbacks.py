import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerControl, TrainingArguments

from pellucid.core import ArgumentError
from pellucid.testing import tiny_llama
from pellucid.tptt import (
    LiZACallback,
    SaveBestModelCallback,
    TpttConfig,
    TpttModel,
    ensure_int,
    extract_template_variables,
    generate_model_card,
    get_tptt_model,
    list_liza,
)


@pytest.fixture
def model():
    base = tiny_llama()
    return get_tptt_model(base, base.config)[0]


def weights_of(callback, model, steps):
    found = []
    for step in range(steps):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)
        found.append([layer.mag_weight for layer in list_liza(model)])
    assert all(len(set(row)) == 1 for row in found)
    return [row[0] for row in found]


def test_a_gradual_change_is_a_straight_line(model):
    callback = LiZACallback(model, initial_weight=0.2, final_weight=1.0, transition_step=(4,))
    assert weights_of(callback, model, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_change_of_no_steps_is_at_once(model):
    assert weights_of(LiZACallback(model, transition_step=0), model, 2) == [0.5, 0.5]


def test_weights_are_taken_in_turn(model):
    callback = LiZACallback(model, "cyclic", weight_list=[0.0, 0.5, 1.0])
    assert weights_of(callback, model, 5) == [0.0, 0.5, 1.0, 0.0, 0.5]


def test_linear_attention_is_switched_off_first(model):
    callback = LiZACallback(model, "switch", switch_period=2)
    found = []
    for step in range(6):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)
        found.append(list_liza(model)[1].disable_linear_attn)
    assert found == [True, True, False, False, True, True]


def test_the_share_is_logged(model):
    logs = {}
    LiZACallback(model).on_log(None, None, None, logs=logs)
    assert logs == {"mag_weight": 0.5, "disable_linear_attn": False}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "ramp"}, "mode must be one of gradual, cyclic, switch, constant, got 'ramp'"),
        ({"switch_period": 0}, "switch_period must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_refused(model, options, match):
    with pytest.raises(ArgumentError, match=match):
        LiZACallback(model, **options)


def test_only_a_better_loss_is_saved():
    callback, control = SaveBestModelCallback(), TrainerControl(should_save=True)
    saved = []
    for loss in (3.0, 3.0, 2.0, math.nan, 2.5, 1.0):
        callback.on_evaluate(None, None, control, metrics={"eval_loss": loss})
        saved.append(control.should_save)
    assert saved == [True, False, True, False, False, True]
    control.should_save = True
    callback.on_evaluate(None, None, control, metrics={})
    assert control.should_save
    assert callback.best_metric == 1.0


@pytest.mark.parametrize("value", [3, (3, 1), [3], torch.tensor(3), 3.0])
def test_an_integer_may_be_wrapped(value):
    assert ensure_int(value) == 3


class _Sentences(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = torch.arange(index, index + 12) % 50 + 5
        return {"input_ids": ids, "labels": ids}


def test_a_trainer_trains_logs_and_saves(tmp_path):
    base = tiny_llama()
    model = TpttModel(TpttConfig(base.config, force_attn_implementation="sdpa"), backbone=base)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    callback = LiZACallback(model, initial_weight=0.0, final_weight=0.6, transition_step=3)
    data = _Sentences()
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    with torch.random.fork_rng(devices=[]):
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < logs[0]["loss"]
    again = TpttModel.from_pretrained(str(tmp_path / "checkpoint-6"))
    assert again.mag_weight == 0.6
    ids = data[0]["input_ids"][None]
    torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)


def test_a_card_is_filled_in(tmp_path):
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05}
    config = TpttConfig(tiny_llama().config, base_model_name="a/b", lora_config=lora)
    generate_model_card(str(tmp_path / "Titans-b"), config, loss=1.25, dataset=["x", "y"])
    card = (tmp_path / "Titans-b" / "README.md").read_text()
    assert "# Titans-b" in card
    assert "a/b with linear attention" in card
    assert "| 8, 16, 0.05 |" in card
    assert "| 1.25, N/A |" in card
    assert "datasets: x, y" in card
    assert not extract_template_variables(card)


def test_variables_are_those_of_the_innermost_braces():
    template = "{{outer}} {inner} {{nested{deep}}}"
    assert extract_template_variables(template) == {"outer", "inner", "deep"}
    assert extract_template_variables("none") == set()


def test_a_card_may_have_a_template_of_its_own(tmp_path):
    config = TpttConfig(tiny_llama().config, mag_weight=0.25)
    template = tmp_path / "card.md"
    template.write_text("{{ model_id }}: {{ config.mag_weight }}, {{ loss }}{{ nobody }}")
    generate_model_card(str(tmp_path / "m"), config, str(template), {"loss": 2.5})
    assert (tmp_path / "m" / "README.md").read_text() == "m: 0.25, 2.5"
    with pytest.raises(FileNotFoundError):
        generate_model_card(str(tmp_path / "n"), config, str(tmp_path / "none.md"))
    assert not (tmp_path / "n").exists()
