"""Commands that a stage of the tour runs as anybody else would."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pellucid.cli._visible import one_line
from pellucid.core import PellucidError

# As what modules the commands run in the interpreter that runs the tour.
_MODULES = {"pellucid": "pellucid.cli", "xlm": "pellucid.xlm"}


class StageError(PellucidError, RuntimeError):
    """A command of a stage has failed."""


def run_command(words: Sequence[str], log: Path) -> None:
    """Run a command in a process of its own.

    Args:
        words: As on the command line, "python" standing for this interpreter.
        log: What it prints goes here.

    Raises:
        StageError: If it fails; the message ends with the last line that it printed.
    """
    program, *rest = words
    start = [] if program == "python" else ["-m", _MODULES[program]]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [sys.executable, *start, *rest], stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = one_line(lines[-1]) if lines else "it printed nothing"
        raise StageError(
            f"`{shlex.join(words)}` ended with exit code {done.returncode}: {last} "
            f"All that it printed is in {str(log)!r}."
        )
