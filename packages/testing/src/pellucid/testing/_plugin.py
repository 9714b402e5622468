"""The pytest plugin: every test run checks shapes, stays offline, and does not crowd the machine.

Loaded by pytest before any conftest. To load it must not import `pellucid.core`, neither itself nor
through its package: core reads `PELLUCID_TYPECHECK` once, when it is first imported, and checks
nothing that was imported before. Subprocesses of a test inherit the environment set here.
"""

import atexit
import gc
import importlib
import os
import sys

import hypothesis
import pytest

from pellucid.testing import _network_guard

_ENVIRONMENT = {
    "PELLUCID_TYPECHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_IS_LATE = "pellucid.core" in sys.modules and "PELLUCID_TYPECHECK" not in os.environ

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
if _IS_WORKER:
    # As many workers as cores, each with as many threads as cores, are slower than one worker.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Import core, which installs the hook, before a conftest imports the package under test.

    That package's first module would be loaded unchecked. A controller that hands tests out to
    workers runs none itself, and need not wait for torch.
    """
    hands_out = getattr(early_config.known_args_namespace, "numprocesses", None)
    if _IS_WORKER or not hands_out:
        importlib.import_module("pellucid.core")


def pytest_configure(config: pytest.Config) -> None:
    """Forbid the network, lift hypothesis's deadline, and say so if nothing will be checked."""
    _network_guard.install()
    # The first use of torch in a process takes longer than any deadline.
    hypothesis.settings.register_profile("pellucid", deadline=None)
    hypothesis.settings.load_profile("pellucid")
    if _IS_LATE:
        message = (
            "pellucid.core was imported before pytest, so its functions are not checked. Import it "
            "later, or set PELLUCID_TYPECHECK=1."
        )
        config.issue_config_time_warning(pytest.PytestConfigWarning(message), stacklevel=2)


def pytest_collection_finish() -> None:
    """Hold a worker to one thread, and let its garbage collector skip what stays to the end."""
    torch = sys.modules.get("torch")
    if _IS_WORKER and torch is not None:
        torch.set_num_threads(1)
    # Modules and thousands of tests: every full collection would look through all of them. Some
    # libraries count at the end what is left, so that it must be seen again by then.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)
