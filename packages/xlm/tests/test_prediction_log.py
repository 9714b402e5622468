import json
from types import SimpleNamespace

import pytest
import torch

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._prediction_log import LogPredictions, Place


class Predictor:
    def to_dict(self, batch, preds, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        return [{"text": text, "ids": [1, 2], "steps_taken": 3} for text in preds["text"]]


class Tokenizer:
    def batch_decode(self, ids, skip_special_tokens=False):
        return [" ".join(map(str, row.tolist())) for row in ids]


MODULE = SimpleNamespace(predictor=Predictor(), tokenizer=Tokenizer(), loggers=[])
BATCH = {"target_ids": torch.tensor([[1, 2], [3, 4]]), "level": torch.tensor([7, 8])}
PREDS = {"text": ["a", "b"]}


def place(tmp_path, step=5, loader="prediction"):
    return Place(tmp_path, split="val", loader=loader, epoch=1, step=step, module=MODULE)


def test_records_hold_what_was_asked_for_and_what_is_always_kept(tmp_path):
    log = LogPredictions(
        inject_target="target_ids",
        additional_fields_from_batch=["level"],
        fields_to_keep_in_output=["text", "truth"],
    )
    log(MODULE, BATCH, PREDS, split="val", loader="prediction")
    records = log.flush(place(tmp_path))
    assert records == [
        {"text": "a", "steps_taken": 3, "truth": "1 2", "level": 7},
        {"text": "b", "steps_taken": 3, "truth": "3 4", "level": 8},
    ]
    path = tmp_path / "val" / "prediction" / "epoch=1_step=5.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == records


def test_the_same_step_is_overwritten_never_appended_to(tmp_path):
    log = LogPredictions()
    for _ in range(3):
        log(MODULE, BATCH, PREDS, split="val", loader="prediction")
        log.flush(place(tmp_path))
    (path,) = (tmp_path / "val" / "prediction").iterdir()
    assert len(path.read_text().splitlines()) == 2


def test_an_evaluation_that_broke_off_is_forgotten(tmp_path):
    log = LogPredictions()
    log(MODULE, BATCH, PREDS, split="val", loader="prediction")
    log.discard("val")
    log(MODULE, BATCH, PREDS, split="val", loader="prediction")
    assert len(log.flush(place(tmp_path))) == 2


def test_loaders_do_not_mix(tmp_path):
    log = LogPredictions()
    for loader in ("one", "two"):
        log(MODULE, BATCH, PREDS, split="val", loader=loader)
    assert len(log.flush(place(tmp_path, loader="one"))) == 2
    assert len(log.flush(place(tmp_path, loader="two"))) == 2


def test_the_console_shows_a_few(tmp_path, capsys):
    log = LogPredictions(writers=["console"])
    for _ in range(20):
        log(MODULE, BATCH, PREDS, split="val", loader="prediction")
    log.flush(place(tmp_path))
    assert len(capsys.readouterr().out.splitlines()) == 11


def test_a_writer_that_is_not_there_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'file'"):
        LogPredictions(writers=["fil"])


def test_a_field_that_is_not_there_is_named():
    log = LogPredictions(inject_target="targets")
    with pytest.raises(ArgumentError, match="no field 'targets' to log; it has level, target_ids"):
        log(MODULE, BATCH, PREDS, split="val", loader="prediction")
