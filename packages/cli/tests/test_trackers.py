import json

from pellucid.cli._trackers import make_tracker
from pellucid.core import load


def test_a_run_is_recorded_by_every_tracker_that_is_named(tiny, asked, tmp_path):
    out = tmp_path / "mine"
    done = tiny(*asked, "--steps=2", "--tracker=json", "--tracker=tensorboard", "--out", out)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    history = json.loads((out / "steps.json").read_text())["history"]
    assert history["loss"] == [row["loss"] for row in rows]
    assert list((out / "tensorboard" / "mine").glob("events.*"))
    config = json.loads((out / "config.json").read_text())
    assert config["trackers"] == ["json", "tensorboard"]
    assert config["run_id"]


def test_a_run_that_resumes_goes_on_where_it_was_recorded(tiny, asked, tmp_path):
    out = tmp_path / "mine"
    tiny(*asked, "--steps=2", "--no-stop", "--tracker=json", "--out", out)
    done = tiny("optimize", "--resume", out, "--steps=4")
    assert done.code == 0, done.err
    assert json.loads((out / "steps.json").read_text())["history"]["step"] == [1, 2, 3, 4]


def test_names_that_make_no_sense_are_refused(tiny, asked, tmp_path):
    for name, said in (("wnadb", "wandb"), ("jsonl", "record twice")):
        done = tiny(*asked, f"--tracker={name}", "--out", tmp_path / "mine")
        assert done.code == 2
        assert said in done.err
        assert not (tmp_path / "mine").exists()


def test_a_service_knows_the_run_by_its_id_and_its_directory(tmp_path):
    tracker = make_tracker(["wandb"], tmp_path / "mine" / "steps.jsonl", "abc")
    wandb = tracker.trackers[1]
    assert isinstance(wandb, load("pellucid.trackers", "wandb"))
    assert (wandb.run_id, wandb.experiment_name) == ("abc", "mine")
