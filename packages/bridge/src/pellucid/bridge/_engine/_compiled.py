"""Models that torch.compile has compiled: runs with hooks leave the compiled code aside.

What is compiled once without hooks would go on without them, or be compiled again for each set of
hooks. While a run has hooks, torch is told to run eagerly; a run without hooks is compiled.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pellucid.bridge._engine._execution import Enter

_LOCK = threading.Lock()
_HELD: list[Any] = []
_N_RUNS = [0]


def run_eagerly(modules: Iterable[nn.Module]) -> tuple[Enter, ...]:
    """Return what a run does at its start if one of these modules is compiled: nothing if none is.

    Args:
        modules: The model and its blocks.
    """
    held: list[Any] = list(modules)
    return (_enter,) if any(module._compiled_call_impl is not None for module in held) else ()


def _enter(execution: Any) -> Callable[[], None]:
    with _LOCK:
        # One setting for all threads: the first run that needs it makes it, the last undoes it.
        if not _N_RUNS[0]:
            stance = torch.compiler.set_stance("force_eager")
            stance.__enter__()
            _HELD.append(stance)
        _N_RUNS[0] += 1
    return _leave


def _leave() -> None:
    with _LOCK:
        _N_RUNS[0] -= 1
        if not _N_RUNS[0]:
            _HELD.pop().__exit__(None, None, None)
