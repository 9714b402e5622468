import os
import shutil
import sys
from pathlib import Path

import pytest

import typecheck

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of one small package under the type checker's real configuration."""
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    package = tmp_path / "packages/core"
    (package / "src/pellucid/core").mkdir(parents=True)
    (package / "pyproject.toml").touch()
    (package / "src/pellucid/core/__init__.py").touch()
    monkeypatch.setenv("PATH", str(Path(sys.prefix) / "bin"), prepend=os.pathsep)
    return tmp_path


def test_clean_sources_pass(checked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typecheck.main(["--root", str(checked)]) == 0
    assert capsys.readouterr().out == "1 files analysed, 0 errors\n"


def test_a_planted_error_of_strict_mode_is_found(
    checked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checked / "packages/core/src/pellucid/core/_planted.py"
    source.write_text("def width(x):\n    return x\n")
    assert typecheck.main(["--root", str(checked)]) == 1
    assert "core/_planted.py:1:11: error: " in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_found(
    checked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = checked / "pyproject.toml"
    text = config.read_text()
    plain = 'include = ["packages", "tools"]'
    assert plain in text
    config.write_text(text.replace(plain, 'include = ["packages/*/src"]'))
    assert typecheck.main(["--root", str(checked)]) == 1
    assert "1 files were expected" in capsys.readouterr().out


def test_a_checker_that_breaks_down_is_not_a_pass(
    checked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = checked / "bin/basedpyright"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho out of memory\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match="basedpyright ended with status 3: out of memory"):
        typecheck.main(["--root", str(checked)])
