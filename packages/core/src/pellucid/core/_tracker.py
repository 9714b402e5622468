"""The contract of a tracker: init, log, finish."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pellucid.core._errors import RequirementError

_LOGGER = logging.getLogger(__name__)


class BaseTracker(ABC):
    """Records a run: its configuration, one set of values a step, and a summary.

    A subclass gives `_init`, `_log` and `_finish`; the order of calls is kept here.

    Args:
        experiment_name: What the run is called.
        experiment_config: Values to record beside the run's own configuration.
    """

    experiment_name: str = "pellucid_experiment"
    experiment_config: Mapping[str, Any] = MappingProxyType({})

    _is_active: bool = False

    def __init__(
        self,
        experiment_name: str = experiment_name,
        experiment_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.experiment_name = experiment_name
        self.experiment_config = dict(experiment_config or {})

    def init(self, config: Mapping[str, Any] | None = None) -> None:
        """Start a run; one that is still active is finished first, with a warning in the log."""
        if self._is_active:
            _LOGGER.warning("%s: a run was active and is finished now", self.experiment_name)
            self.finish({"status": "superseded"})
        self._init({**self.experiment_config, **(config or {})})
        self._is_active = True

    def log(self, data: Mapping[str, Any]) -> None:
        """Record the values of one step.

        Raises:
            RequirementError: If no run is active.
        """
        if not self._is_active:
            raise RequirementError(
                f"tracker {self.experiment_name!r} has no active run. Call init(config) first."
            )
        self._log(data)

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """End the run; without an active one, nothing but a warning in the log happens."""
        if not self._is_active:
            _LOGGER.warning("%s: finish() without an active run", self.experiment_name)
            return
        self._is_active = False
        self._finish(summary or {})

    @abstractmethod
    def _init(self, config: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _log(self, data: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _finish(self, summary: Mapping[str, Any]) -> None: ...


class DummyTracker(BaseTracker):
    """Records nothing."""

    def _init(self, config: Mapping[str, Any]) -> None:
        del config

    def _log(self, data: Mapping[str, Any]) -> None:
        del data

    def _finish(self, summary: Mapping[str, Any]) -> None:
        del summary
