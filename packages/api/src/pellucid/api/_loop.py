"""One event loop in a thread of its own, so that requests run side by side for anybody.

Code without a loop can use it, and so can code that runs inside one, a notebook's say.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from pellucid.core import RequirementError

_T = TypeVar("_T")

_LOCK = threading.Lock()
_STATE: dict[str, Any] = {}


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in the background loop, and return its result.

    An interrupt cancels it.

    Raises:
        RequirementError: If called from that loop itself, which could never end.
    """
    loop = background_loop()
    if threading.current_thread() is _STATE["thread"]:
        coroutine.close()
        raise RequirementError("a model cannot be called from within its own request.")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; a forked process gets one of its own."""
    with _LOCK:
        if _STATE.get("pid") != os.getpid():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="pellucid-api", daemon=True)
            thread.start()
            _STATE.update(pid=os.getpid(), loop=loop, thread=thread)
        return _STATE["loop"]


class LoopLocal(Generic[_T]):
    """Something that belongs to an event loop, made anew in another one."""

    def __init__(self) -> None:
        self._held: tuple[asyncio.AbstractEventLoop, _T] | None = None

    def get(self, make: Callable[[], _T]) -> _T:
        """Return what belongs to the running loop, made if there is nothing yet."""
        loop = asyncio.get_running_loop()
        if self._held is None or self._held[0] is not loop:
            self._held = (loop, make())
        return self._held[1]

    def release(self, close: Callable[[_T], Coroutine[Any, Any, Any]]) -> None:
        """Forget what was made, and close it in its own loop if that still runs."""
        held, self._held = self._held, None
        if held is not None and held[0] is _STATE.get("loop") and _STATE.get("pid") == os.getpid():
            asyncio.run_coroutine_threadsafe(close(held[1]), held[0])
