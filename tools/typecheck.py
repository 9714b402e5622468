"""Run the type checker, and fail if it looked at fewer files than there are.

A pattern that matches nothing makes the checker report success, so success alone proves little.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from workspace.model import Workspace

FOUND_ERRORS = 1
"""Exit status of a checker that ran and found something."""


def run_checker(root: Path) -> dict[str, Any]:
    """Return the checker's report on the workspace at `root`.

    Raises:
        RuntimeError: The checker did not run to its end.
    """
    done = subprocess.run(
        ["basedpyright", "--outputjson", "--project", str(root)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, FOUND_ERRORS):
        message = f"basedpyright ended with status {done.returncode}: {done.stderr or done.stdout}"
        raise RuntimeError(message)
    return json.loads(done.stdout)


def expected_files(root: Path) -> int:
    """Count the files that must be checked: the sources of every package, and the tools."""
    packages = Workspace.load(root).packages
    sources = sum(len(package.source_files()) for package in packages)
    return sources + len(list((root / "tools").rglob("*.py")))


def describe(diagnostic: dict[str, Any], root: Path) -> str:
    """Render one diagnostic as a line that editors can follow."""
    start = diagnostic["range"]["start"]
    path = Path(diagnostic["file"]).relative_to(root)
    place = f"{path}:{start['line'] + 1}:{start['character'] + 1}"
    rule = diagnostic.get("rule", "syntax")
    return f"{place}: {diagnostic['severity']}: {diagnostic['message']} [{rule}]"


def main(argv: list[str] | None = None) -> int:
    """Check the workspace and return the exit status."""
    parser = argparse.ArgumentParser(prog="typecheck.py", description="Type-check the workspace.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    root: Path = parser.parse_args(argv).root.resolve()
    report = run_checker(root)
    for diagnostic in report["generalDiagnostics"]:
        print(describe(diagnostic, root))
    analysed, expected = report["summary"]["filesAnalyzed"], expected_files(root)
    errors = report["summary"]["errorCount"] + report["summary"]["warningCount"]
    print(f"{analysed} files analysed, {errors} errors")
    if analysed < expected:
        print(f"{expected} files were expected; see [tool.pyright] in pyproject.toml")
    return 1 if errors or analysed < expected else 0


if __name__ == "__main__":
    sys.exit(main())
