import subprocess
import sys

import pytest

import pellucid.xlm

HEAVY = ("torch", "lightning", "hydra", "omegaconf", "numpy", "pellucid.core")
CODE = """
import sys
from pellucid.xlm._app import run
assert run(["--help"]) == 0
assert run(["--version"]) == 0
found = [name for name in {heavy!r} if name in sys.modules]
assert not found, found
"""


def test_help_imports_nothing_heavy():
    code = CODE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "xlm job_type=train" in done.stdout


def test_every_public_name_can_be_imported():
    assert pellucid.xlm.__all__ == sorted(pellucid.xlm.__all__)
    for name in pellucid.xlm.__all__:
        assert getattr(pellucid.xlm, name).__name__ == name
        assert name in dir(pellucid.xlm)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Harnes'"):
        pellucid.xlm.Harnes  # noqa: B018
