import sys
from pathlib import Path

import pytest

from pellucid.api import RetryPolicy

# The import mode of this workspace keeps test folders off the path; the server lies beside them.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def quick():
    """Retries that do not make anybody wait."""
    return RetryPolicy(max_attempts=4, first_delay_s=0.01, longest_delay_s=0.05, longest_wait_s=2)


@pytest.fixture
def serve():
    """Starts loopback servers that live as long as the test: `serve(chat=..., fault=...)`."""
    from contextlib import ExitStack

    from loopback import LoopbackServer

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(LoopbackServer(**options))
