import logging

import pytest
from core_samples import ListTracker

from pellucid.core import BaseTracker, DummyTracker, RequirementError


def test_a_run_is_recorded_in_order():
    tracker = ListTracker(experiment_name="e", experiment_config={"site": "lab", "x": 1})
    tracker.init({"x": 2})
    tracker.log({"loss": 1.0})
    tracker.finish({"status": "finished"})
    assert tracker.events == [
        ("init", {"site": "lab", "x": 2}),
        ("log", {"loss": 1.0}),
        ("finish", {"status": "finished"}),
    ]


def test_configurations_and_summaries_may_be_left_out():
    tracker = ListTracker()
    tracker.init()
    tracker.finish()
    assert tracker.events == [("init", {}), ("finish", {})]
    assert tracker.experiment_name == "pellucid_experiment"


@pytest.mark.parametrize("prepare", [lambda t: None, lambda t: (t.init(), t.finish())])
def test_nothing_is_logged_without_an_active_run(prepare):
    tracker = ListTracker(experiment_name="mine")
    prepare(tracker)
    with pytest.raises(RequirementError, match=r"'mine' has no active run. Call init"):
        tracker.log({"loss": 1.0})
    assert "log" not in tracker.kinds()


def test_a_second_run_finishes_the_first(caplog):
    tracker = ListTracker()
    tracker.init({"run": 1})
    with caplog.at_level(logging.WARNING, logger="pellucid"):
        tracker.init({"run": 2})
    assert tracker.events == [
        ("init", {"run": 1}),
        ("finish", {"status": "superseded"}),
        ("init", {"run": 2}),
    ]
    assert "a run was active and is finished now" in caplog.text


def test_finishing_twice_does_nothing_but_warn(caplog):
    tracker = ListTracker()
    tracker.init()
    tracker.finish()
    with caplog.at_level(logging.WARNING, logger="pellucid"):
        tracker.finish()
    assert tracker.kinds() == ["init", "finish"]
    assert "without an active run" in caplog.text


def test_a_tracker_that_fails_to_start_or_to_finish_is_not_active():
    class Failing(ListTracker):
        def _init(self, config):
            raise OSError("no disk")

    tracker = Failing()
    with pytest.raises(OSError, match="no disk"):
        tracker.init()
    with pytest.raises(RequirementError, match="no active run"):
        tracker.log({})

    class Unfinishing(ListTracker):
        def _finish(self, summary):
            raise OSError("no disk")

    tracker = Unfinishing()
    tracker.init()
    with pytest.raises(OSError, match="no disk"):
        tracker.finish()
    tracker.init()  # no run is active any more
    assert tracker.kinds() == ["init", "init"]


def test_a_tracker_needs_no_super_init():
    class Bare(BaseTracker):
        def __init__(self):
            self.seen = []

        def _init(self, config):
            self.seen.append(config)

        def _log(self, data):
            self.seen.append(data)

        def _finish(self, summary):
            self.seen.append(summary)

    tracker = Bare()
    tracker.init({"a": 1})
    tracker.log({"b": 2})
    tracker.finish()
    tracker.finish()
    assert tracker.seen == [{"a": 1}, {"b": 2}, {}]


def test_the_dummy_keeps_the_order_of_calls_and_nothing_else():
    tracker = DummyTracker()
    tracker.init({"a": 1})
    tracker.log({"loss": 1.0})
    tracker.finish({})
    with pytest.raises(RequirementError):
        tracker.log({})
