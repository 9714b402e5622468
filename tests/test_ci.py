import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in (ROOT / ".ci").iterdir() if path.suffix == "")
CALLERS = [
    *ROOT.glob("*.md"),
    *ROOT.glob(".ci/*"),
    *ROOT.glob(".github/workflows/*.yml"),
]
CALL = re.compile(r"(?<![\w/])(?:\.ci|tools)/\w+(?:\.py)?")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are for bash")
def test_a_script_parses_and_can_be_run(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in (ROOT / ".ci/common.sh").read_text()
    assert '. "$(dirname "$0")/common.sh"' in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_script_that_is_called_is_there(path: Path) -> None:
    called = set(CALL.findall(path.read_text(encoding="utf-8")))
    assert [name for name in sorted(called) if not (ROOT / name).exists()] == []


@pytest.fixture
def path_with_fake_uv(tmp_path: Path) -> str:
    """A search path where uv prints how it was called."""
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "uv $*"\n')
    uv.chmod(0o755)
    return os.pathsep.join([str(tmp_path), os.environ["PATH"]])


def call(script: str, *words: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / script), *words],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["core"], "--locked"),
        (["core", "3.12"], "--python 3.12 --locked"),
        (["core", "3.14", "--extra", "hf"], "--extra hf --python 3.14 --locked"),
        (
            ["core", "3.11", "--resolution", "lowest-direct"],
            "--resolution lowest-direct --python 3.11",
        ),
    ],
    ids=" ".join,
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are for bash")
def test_a_row_of_the_matrix_becomes_one_isolated_run(
    words: list[str], options: str, path_with_fake_uv: str
) -> None:
    done = call("package", *words, path=path_with_fake_uv)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "uv run --isolated --no-editable --package pellucid-core --group test "
        f"{options} pytest packages/core/tests\n"
    )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("package", []),
        ("release", []),
        ("release", ["pellucid-core-v0.1.0"]),
        ("sbom", []),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are for bash")
def test_a_call_without_its_arguments_says_how(
    script: str, words: list[str], path_with_fake_uv: str
) -> None:
    done = call(script, *words, path=path_with_fake_uv)
    assert done.returncode != 0
    assert f"usage: .ci/{script} " in done.stderr
