import io
import json

import pytest

from pellucid.core import ArgumentError, BaseTracker, MissingDependencyError, RequirementError
from pellucid.optimizers import CompositeTracker, DictTracker, JSONTracker, PrintTracker
from pellucid.testing import TrackerContract


class TestPrint(TrackerContract):
    def make_tracker(self):
        return PrintTracker(file=io.StringIO())


class TestJSON(TrackerContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "run.json"

    def make_tracker(self):
        return JSONTracker(self.path)


class TestDict(TrackerContract):
    def make_tracker(self):
        return DictTracker()


class TestComposite(TrackerContract):
    def make_tracker(self):
        return CompositeTracker([DictTracker(), PrintTracker(file=io.StringIO())])


def test_lines_hold_what_was_asked_for(capsys):
    tracker = PrintTracker(("loss", "trigger"), every=2, experiment_name="mine")
    tracker.init({"optimizer": "GCG", "model": "tiny", "seed": 1})
    for step in (1, 2, 3):
        tracker.log({"step": step, "loss": step / 2, "trigger": "\x1b[2J\n"})
    tracker.finish({"status": "finished", "best_loss": 0.5, "losses": [1, 2], "gap": None})
    assert capsys.readouterr().out.splitlines() == [
        "mine: begins: GCG, tiny",
        "mine: loss 0.5000  trigger '\\x1b[2J\\n'",
        "mine: loss 1.5000  trigger '\\x1b[2J\\n'",
        "mine: ends:  status 'finished'  best_loss 0.5000",
    ]


@pytest.mark.parametrize("options", [{"print_keys": ()}, {"print_keys": "loss"}, {"every": 0}])
@pytest.mark.usefixtures("unchecked")
def test_senseless_settings_of_a_printer_are_refused(options):
    with pytest.raises(ArgumentError, match=r"print_keys must|every must"):
        PrintTracker(**options)


def test_a_json_file_holds_configuration_columns_and_summary(tmp_path):
    tracker = JSONTracker(tmp_path / "deep" / "{experiment_name}.json", "mine", {"note": "x"})
    tracker.init({"seed": 1})
    tracker.log({"step": 1, "loss": 2.0})
    tracker.log({"step": 2, "loss": 1.0, "trigger": "\u00e9"})
    assert not (tmp_path / "deep").exists()
    tracker.finish({"status": "finished"})
    (path,) = (tmp_path / "deep").iterdir()
    assert path.name == "mine.json"
    assert json.loads(path.read_text("utf-8")) == {
        "config": {"note": "x", "seed": 1},
        "history": {"step": [1, 2], "loss": [2.0, 1.0], "trigger": [None, "\u00e9"]},
        "summary": {"status": "finished"},
    }


def test_a_json_file_goes_on_from_the_step_that_a_run_resumes_from(tmp_path):
    path = tmp_path / "run.json"
    for config, steps in (({}, (1, 2, 3)), ({"resume_from_step": 2}, (3, 4))):
        tracker = JSONTracker(path)
        tracker.init(config)
        for step in steps:
            tracker.log({"step": step})
        tracker.finish()
    assert json.loads(path.read_text())["history"]["step"] == [1, 2, 3, 4]


def test_records_are_a_frame_by_step():
    tracker = DictTracker()
    tracker.init()
    assert tracker.to_frame().empty
    tracker.log({"step": 1, "loss": 2.0, "trigger": "a"})
    tracker.log({"step": 2, "loss": 1.0})
    frame = tracker.to_frame()
    assert list(frame.index) == [1, 2]
    assert list(frame.columns) == ["loss", "trigger"]
    assert frame["loss"].min() == 1.0
    assert frame["trigger"].isna().tolist() == [False, True]
    tracker.finish()


def test_without_pandas_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid-optimizers\[pandas\]"):
        DictTracker().to_frame()


class Failing(DictTracker):
    """Fails where it is told to."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def _init(self, config):
        self._fail("init")
        super()._init(config)

    def _finish(self, summary):
        super()._finish(summary)
        self._fail("finish")

    def _fail(self, place):
        if place == self.where:
            raise ZeroDivisionError(place)


def test_all_trackers_record_the_same():
    parts = [DictTracker(), DictTracker()]
    tracker = CompositeTracker(parts)
    tracker.init({"seed": 1})
    tracker.log({"loss": 2.0})
    tracker.finish({"status": "finished"})
    for part in parts:
        assert (part.config, part.records) == ({"seed": 1}, [{"loss": 2.0}])
        assert part.summary == {"status": "finished"}


def test_a_tracker_that_cannot_begin_lets_those_before_it_finish():
    before, after = DictTracker(), DictTracker()
    tracker = CompositeTracker([before, Failing("init"), after])
    with pytest.raises(ZeroDivisionError):
        tracker.init({"seed": 1})
    assert before.summary == {"status": "failed"}
    assert after.config == {}
    with pytest.raises(RequirementError):
        tracker.log({})


def test_a_tracker_that_cannot_finish_does_not_keep_others_from_it():
    parts = [Failing("finish"), DictTracker()]
    tracker = CompositeTracker(parts)
    tracker.init()
    with pytest.raises(ZeroDivisionError):
        tracker.finish({"status": "finished"})
    assert parts[1].summary == {"status": "finished"}


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_tracker_is_refused():
    with pytest.raises(ArgumentError, match="at least one"):
        CompositeTracker([])
    one = DictTracker()
    with pytest.raises(ArgumentError, match="each once"):
        CompositeTracker([one, one])
    with pytest.raises(RequirementError, match="holds BaseTracker, got 'wandb'"):
        CompositeTracker(["wandb"])


def test_every_registered_tracker_is_one():
    from pellucid.core import load, names

    assert {"dict", "json", "jsonl", "print", "tensorboard", "trackio", "wandb"} <= set(
        names("pellucid.trackers")
    )
    for name in names("pellucid.trackers"):
        assert issubclass(load("pellucid.trackers", name), BaseTracker)
