"""Ctrl-C ends a run after its present step; pressed again, it ends it at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from pellucid.optimizers import Step


class Interrupt:
    """A callback that ends the run once Ctrl-C has been pressed inside its context.

    Args:
        announce: Called at the first Ctrl-C.

    Attributes:
        requested: Whether Ctrl-C has been pressed.
    """

    stop_reason = "interrupted"

    def __init__(self, announce: Callable[[], None]) -> None:
        self.requested = False
        self._announce = announce
        self._before: Any = None

    def __call__(self, step: Step) -> bool:
        """Say whether the run must end after this step."""
        del step
        return self.requested

    def __enter__(self) -> "Interrupt":
        # Python lets no other thread handle signals; there, Ctrl-C stays what it is.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._announce()
