"""The pytest plugin: every test run checks shapes, stays offline, and does not crowd the machine.

Loaded by pytest before any conftest. It must not import `pellucid.core`, neither itself nor
through its package: core reads `PELLUCID_TYPECHECK` once, when it is first imported, and checks
nothing that was imported before. Subprocesses of a test inherit the environment set here.
"""

import os
import sys

from pellucid.testing import _network_guard

_ENVIRONMENT = {
    "PELLUCID_TYPECHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
if _IS_WORKER:
    # As many workers as cores, each with as many threads as cores, are slower than one worker.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Forbid the network for the rest of the process."""
    _network_guard.install()


def pytest_collection_finish() -> None:
    """Hold a worker to one thread, whatever its tests imported torch with."""
    torch = sys.modules.get("torch")
    if _IS_WORKER and torch is not None:
        torch.set_num_threads(1)
