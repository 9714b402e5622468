import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import new
import ws
from workspace.model import Workspace, WorkspaceError
from workspace.registration import indexed, with_line

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(sys.prefix)
SCRATCH = re.compile(r"\.(venv|git|hypothesis|\w+_cache|import_linter_cache)|__pycache__|runs|dist")
DESCRIPTION = "Probes that read concepts out of hidden states."


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The workspace as it is now, without what tools left in it."""
    target = tmp_path / "workspace"
    shutil.copytree(
        ROOT,
        target,
        ignore=lambda _, names: [name for name in names if SCRATCH.fullmatch(name)],
    )
    return target


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for uv that writes down how it was called; the status is in `uv.status`."""
    script = tmp_path / "uv"
    script.write_text(
        '#!/bin/sh\necho "$@" >> "$0.calls"\nexit "$(cat "$0.status")"\n', encoding="utf-8"
    )
    script.chmod(0o755)
    (tmp_path / "uv.status").write_text("0")
    monkeypatch.setenv("UV", str(script))
    return script


def run(root: Path, *command: str) -> None:
    """Run a tool of the environment in the copy, where the new package is importable."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "packages/probes/src"),
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    environment = {key: value for key, value in environment.items() if "PYTEST" not in key}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_new_package_passes_its_checks_at_once(copy: Path, uv: Path) -> None:
    before = ws.violations(Workspace.load(copy))
    assert new.main(["probes", "--description", DESCRIPTION, "--root", str(copy)]) == 0
    assert uv.with_suffix(".calls").read_text() == f"lock --project {copy}\n"

    workspace = Workspace.load(copy)
    assert ws.violations(workspace) == before
    assert workspace.by_name["probes"].project["description"] == DESCRIPTION
    assert workspace.may_import["probes"] == {"core"}
    assert "probes" in workspace.may_import["cli"]
    assert "{{" not in "".join(
        path.read_text() for path in (copy / "packages/probes").rglob("*") if path.is_file()
    )

    run(copy, "ruff", "check", "packages/probes")
    run(copy, "ruff", "format", "--check", "packages/probes")
    run_type_checker(copy)
    readme = (copy / "packages/probes/README.md").read_text()
    example = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (copy / "packages/probes/tests/test_readme.py").write_text("\n".join(example))
    run(copy, sys.executable, "-m", "pytest", "-q", "packages/probes/tests")


def run_type_checker(root: Path) -> None:
    (root / ".venv").symlink_to(ENVIRONMENT)
    config = root / "pyproject.toml"
    text = config.read_text()
    paths = 'extraPaths = ["tools"]'
    assert paths in text
    config.write_text(text.replace(paths, 'extraPaths = ["tools", "packages/probes/src"]'))
    run(root, "basedpyright", "packages/probes/src")


def test_directions_become_layers(copy: Path, uv: Path) -> None:
    words = ["probes", "--description", DESCRIPTION, "--may-import", "hf, core"]
    assert new.main([*words, "--root", str(copy)]) == 0
    contracts = Workspace.load(copy).tools["importlinter"]["contracts"]
    ranks = next(c["layers"] for c in contracts if c["type"] == "layers")
    rank = {name: i for i, layer in enumerate(ranks) for name in layer.split(" | ")}
    assert rank["pellucid.cli"] < rank["pellucid.probes"] < rank["pellucid.hf"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Probes"], "is no package name"),
        (["my-probes"], "is no package name"),
        (["../probes"], "is no package name"),
        (["lambda"], "is no package name"),
        (["utils"], "says nothing"),
        (["core"], "packages/core exists"),
        (["probes", "--may-import", "core,hff"], "'hff' is no package"),
        (["probes", "--may-import", "hf"], "lacks 'core'"),
        (["probes", "--description", "two\nlines."], "is not a sentence"),
        (["probes", "--description", 'a "quote".'], "is not a sentence"),
        (["probes", "--description", "no period"], "is not a sentence"),
        (["probes", "--description", ""], "is not a sentence"),
    ],
)
def test_a_bad_request_is_one_line_and_changes_nothing(
    words: list[str], message: str, copy: Path, uv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(copy)
    described = [] if "--description" in words else ["--description", DESCRIPTION]
    assert new.main([*words, *described, "--root", str(copy)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert snapshot(copy) == before
    assert not uv.with_suffix(".calls").exists()


def test_a_failed_lock_leaves_nothing_behind(
    copy: Path, uv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(copy)
    uv.with_suffix(".status").write_text("1")
    assert new.main(["probes", "--description", DESCRIPTION, "--root", str(copy)]) == 2
    assert "'uv lock' failed" in capsys.readouterr().err
    assert snapshot(copy) == before


def test_a_root_that_cannot_be_edited_is_left_alone(
    copy: Path, uv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "pyproject.toml"
    path.write_text(path.read_text().replace("layers = [", "layers = [ # highest first"))
    before = snapshot(copy)
    assert new.main(["probes", "--description", DESCRIPTION, "--root", str(copy)]) == 2
    assert "'layers = ['" in capsys.readouterr().err
    assert snapshot(copy) == before


def test_a_line_goes_to_its_sorted_place_and_comments_stay() -> None:
    text = "# why\n[table]\na = 1\nc = 3\n\n[other]\nb = 0\n"
    assert with_line(text, "[table]", "b = 2") == text.replace("c = 3", "b = 2\nc = 3")


def test_a_block_that_is_there_twice_is_refused() -> None:
    with pytest.raises(WorkspaceError, match="exactly once"):
        with_line("x = [\n]\nx = [\n]\n", "x = [", "  1,")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# Index\n", "# Index\n\n{line}\n"),
        ("# Index\n\n- [pellucid-a](x)\n\nEnd\n", "# Index\n\n- [pellucid-a](x)\n{line}\n\nEnd\n"),
        ("- [pellucid-z](x)\n", "{line}\n- [pellucid-z](x)\n"),
    ],
)
def test_the_changelog_index_stays_sorted(before: str, after: str) -> None:
    line = "- [pellucid-hf](packages/hf/CHANGELOG.md)"
    assert indexed(before, "hf") == after.format(line=line)
