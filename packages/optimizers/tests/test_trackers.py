import json

import pytest

from pellucid.core import ArgumentError, CheckpointError
from pellucid.optimizers import DictTracker, JSONLTracker


def write_rows(path, n_rows, torn=b""):
    rows = [json.dumps({"step": i, "trigger": "\u00e9\u2028"}) + "\n" for i in range(1, n_rows + 1)]
    path.write_bytes("".join(rows).encode() + torn)


def test_rows_are_on_disk_at_once(tmp_path):
    path = tmp_path / "deep" / "steps.jsonl"
    tracker = JSONLTracker(path)
    tracker.init({})
    tracker.log({"step": 1, "loss": 0.5, "trigger": "\u00e9\n"})
    assert json.loads(path.read_text("utf-8")) == {"step": 1, "loss": 0.5, "trigger": "\u00e9\n"}
    tracker.finish()


def test_existing_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text("mine")
    with pytest.raises(ArgumentError, match="exists"):
        JSONLTracker(path).init({})
    assert path.read_text() == "mine"


def test_resume_cuts_off_what_the_checkpoint_does_not_know(tmp_path):
    path = tmp_path / "steps.jsonl"
    write_rows(path, 5, torn=b'{"step": 6, "lo')
    tracker = JSONLTracker(path)
    tracker.init({"resume_from_step": 3})
    tracker.log({"step": 4})
    tracker.finish()
    steps = [json.loads(line)["step"] for line in path.read_bytes().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["missing", "short", "torn", "renumbered"])
def test_damaged_file_cannot_be_continued(tmp_path, damage):
    path = tmp_path / "steps.jsonl"
    if damage == "short":
        write_rows(path, 2)
    elif damage == "torn":
        write_rows(path, 2, torn=b'{"step": 3, "lo')
    elif damage == "renumbered":
        path.write_text('{"step": 1}\n{"step": 1}\n{"step": 3}\n')
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(CheckpointError, match=r"cannot be continued|does not hold steps 1 to 3"):
        JSONLTracker(path).init({"resume_from_step": 3})
    assert (path.read_bytes() if path.exists() else None) == before


def test_dict_tracker_shows_records_as_columns():
    tracker = DictTracker()
    tracker.init({"a": 1})
    tracker.log({"loss": 2.0})
    tracker.log({"loss": 1.0, "extra": "x"})
    tracker.finish({"status": "finished"})
    assert tracker.history == {"loss": [2.0, 1.0], "extra": [None, "x"]}
    assert (tracker.config, tracker.summary) == ({"a": 1}, {"status": "finished"})
    tracker.init({})
    assert tracker.records == []
    tracker.finish()
