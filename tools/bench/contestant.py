"""Contestants of a benchmark: processes of their own, in environments of their own."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

OWN_PYTHON = sys.executable
"""The interpreter of this workspace's environment."""


class Contestant:
    """A process that is asked for one piece of work after the other, a JSON object a line each way.

    It starts without the checks of annotations, and with as many threads as it may use. Lines of
    its output that are no objects are passed over: packages may say other things on their way.

    Args:
        script: Beside this file.
        python: The interpreter to run it with.
        arguments: Of the script.
        threads: What OMP_NUM_THREADS is.
        environment: Further variables.
        shows_errors: Let its errors be seen; warnings of packages go there too.
    """

    def __init__(
        self,
        script: str,
        python: str,
        *arguments: object,
        threads: int = 1,
        environment: dict[str, str] | None = None,
        shows_errors: bool = False,
    ) -> None:
        # Without -P a script that is called like a package would be taken for it.
        command = [python, "-P", str(Path(__file__).with_name(script)), *map(str, arguments)]
        settings = {"PELLUCID_TYPECHECK": "0", "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shows_errors else subprocess.DEVNULL,
            text=True,
            env={**os.environ, **settings, **(environment or {})},
        )

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Ask for something, and return the answer."""
        if self._process.stdin is None:
            raise SystemExit(f"{self._process.args!r} has no input.")
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Return the next object that it writes, such as what it says of itself at the start."""
        if self._process.stdout is not None:
            for line in self._process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
        raise SystemExit(f"a contestant has ended: {self._process.args!r}")

    def close(self) -> None:
        """Give it no more work."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """Give it no more work, and wait for its end."""
        self.close()
        self._process.wait()


def make_environment(folder: Path, packages: Sequence[str], *, python: str = "3.11") -> str:
    """Return the interpreter of an environment with some packages, made if it is not there."""
    interpreter = folder.absolute() / "bin" / "python"
    if not interpreter.exists():
        subprocess.run(["uv", "venv", "--python", python, str(folder)], check=True)
        install = ["uv", "pip", "install", "--python", str(interpreter), *packages]
        subprocess.run(install, check=True)
    return str(interpreter)


def median_ratio(times: Iterable[float], others: Iterable[float]) -> float:
    """Return the median of the ratios of times that were taken beside each other."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
