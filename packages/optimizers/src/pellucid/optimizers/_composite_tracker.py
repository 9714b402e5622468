"""Several trackers at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.core import ArgumentError, BaseTracker, RequirementError


class CompositeTracker(BaseTracker):
    """Records a run in several places.

    A tracker that cannot begin lets the others, which have begun, finish. When a run ends, all are
    finished, and the first error is raised afterwards.

    Args:
        trackers: Where to record.
        experiment_name: What the run is called in messages; the trackers have names of their own.

    Raises:
        ArgumentError: (a ValueError) If there are no trackers, or one occurs twice.
        RequirementError: (a TypeError) If one is no tracker.
    """

    def __init__(
        self, trackers: Sequence[BaseTracker], experiment_name: str = "pellucid_experiment"
    ) -> None:
        super().__init__(experiment_name)
        self.trackers = tuple(trackers)
        if not self.trackers or len({id(tracker) for tracker in self.trackers}) < len(trackers):
            raise ArgumentError(
                f"CompositeTracker needs at least one tracker, each once, got {list(trackers)!r}."
            )
        for tracker in self.trackers:
            if not isinstance(tracker, BaseTracker):
                raise RequirementError(f"CompositeTracker holds BaseTracker, got {tracker!r}.")

    def _init(self, config: Mapping[str, Any]) -> None:
        begun: list[BaseTracker] = []
        try:
            for tracker in self.trackers:
                tracker.init(config)
                begun.append(tracker)
        except BaseException:
            for tracker in begun:
                tracker.finish({"status": "failed"})
            raise

    def _log(self, data: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.log(data)

    def _finish(self, summary: Mapping[str, Any]) -> None:
        failures: list[Exception] = []
        for tracker in self.trackers:
            try:
                tracker.finish(summary)
            except Exception as error:
                # The others must not stay open because of it; it is raised below.
                failures.append(error)
        if failures:
            raise failures[0]
