"""The conformance suite of trackers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pytest

from pellucid.core import BaseTracker, RequirementError
from pellucid.testing._checked import checked
from pellucid.testing._laws import expect
from pellucid.testing._purity import copy_value, same

_CONFIG: Mapping[str, Any] = {"optimizer": "Any", "hparam/num_steps": 3, "targets": None}
_STEP: Mapping[str, Any] = {
    "step": 1,
    "loss": 0.5,
    "best_loss": float("inf"),
    "trigger_str": 'a "quoted"\ttrigger \u2603\n',
    "is_new": True,
    "total_models_stats/total_tokens": 12,
}
_SUMMARY: Mapping[str, Any] = {"status": "finished", "best_loss": 0.25, "verified_loss": None}


class TrackerContract(ABC):
    """What every tracker keeps; name a subclass `Test...` and give `make_tracker`."""

    @abstractmethod
    def make_tracker(self) -> BaseTracker:
        """Return the tracker under test; called once for each law."""

    def test_a_run_is_recorded(self) -> None:
        """Configuration, steps and a summary are taken, and none of them is changed."""
        tracker = self._tracker()
        given = [dict(_CONFIG), dict(_STEP), dict(_SUMMARY)]
        before = copy_value(given)
        tracker.init(given[0])
        tracker.log(given[1])
        tracker.log({**given[1], "step": 2, "loss": float("nan")})
        tracker.finish(given[2])
        expect(same(copy_value(given), before), "what was given to the tracker was changed.")

    def test_nothing_need_be_given(self) -> None:
        """A run may have neither configuration nor steps nor summary."""
        tracker = self._tracker()
        tracker.init()
        tracker.finish()

    def test_logging_needs_a_run(self) -> None:
        """A step outside a run is an error, before the first one and after each."""
        tracker = self._tracker()
        with pytest.raises(RequirementError):
            tracker.log(_STEP)
        tracker.init(_CONFIG)
        tracker.log(_STEP)
        tracker.finish(_SUMMARY)
        with pytest.raises(RequirementError):
            tracker.log(_STEP)

    def test_finishing_twice_is_harmless(self) -> None:
        """A run is finished once, however often that is asked for."""
        tracker = self._tracker()
        finished = self._watch(tracker, "_finish")
        tracker.init(_CONFIG)
        tracker.finish(_SUMMARY)
        tracker.finish(_SUMMARY)
        expect(len(finished) == 1, f"one run was finished {len(finished)} times.")

    def test_finishing_nothing_is_harmless(self) -> None:
        """Without a run there is nothing to finish, and no error."""
        tracker = self._tracker()
        finished = self._watch(tracker, "_finish")
        tracker.finish(_SUMMARY)
        expect(not finished, "a run was finished that had never begun.")

    def test_a_second_run_finishes_the_first(self) -> None:
        """A run that begins ends the one before it, and then goes on as any other."""
        tracker = self._tracker()
        begun, finished = self._watch(tracker, "_init"), self._watch(tracker, "_finish")
        tracker.init(_CONFIG)
        tracker.log(_STEP)
        tracker.init(_CONFIG)
        expect((len(begun), len(finished)) == (2, 1), "the first run was not finished.")
        tracker.log(_STEP)
        tracker.finish(_SUMMARY)
        expect(len(finished) == 2, "the second run was not finished.")

    def test_a_tracker_serves_several_runs(self) -> None:
        """After a run has ended, another one may begin."""
        tracker = self._tracker()
        for _ in range(2):
            tracker.init(_CONFIG)
            tracker.log(_STEP)
            tracker.finish(_SUMMARY)

    def _tracker(self) -> Any:
        return checked(self.make_tracker(), BaseTracker)

    def _watch(self, tracker: Any, name: str) -> list[Mapping[str, Any]]:
        """Return a list that grows with each call of one of a tracker's own methods."""
        calls: list[Mapping[str, Any]] = []
        own = getattr(tracker, name)

        def call(values: Mapping[str, Any]) -> None:
            calls.append(values)
            own(values)

        setattr(tracker, name, call)
        return calls
