import json
import math
from pathlib import Path

import pytest

from pellucid.cli._rundir import RunDirectory, default_path, demo_path, refuse_existing, write_whole
from pellucid.core import ArgumentError, CheckpointError


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "before")

    def fail(self, target):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, "after")
    assert path.read_text() == "after"


def test_directories_are_made_and_unmade(tmp_path):
    directory = RunDirectory(tmp_path / "a" / "b")
    made = directory.create()
    assert made == [tmp_path / "a" / "b", tmp_path / "a"]
    directory.discard_unless_begun(made)
    assert list(tmp_path.iterdir()) == []


def test_only_empty_parents_are_unmade(tmp_path):
    directory = RunDirectory(tmp_path / "a" / "b")
    made = directory.create()
    (tmp_path / "a" / "other").write_text("")
    directory.discard_unless_begun(made)
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "other"]


def test_a_run_that_has_begun_is_not_discarded(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    made = directory.create()
    directory.steps.write_text('{"step": 1}\n')
    directory.discard_unless_begun(made)
    assert directory.steps.exists()


def test_what_could_not_be_made_is_unmade(tmp_path, monkeypatch):
    run = tmp_path / "a" / "b" / "run"
    mkdir = Path.mkdir

    def fail(self, *args, **kwargs):
        if self == run:
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(PermissionError):
        RunDirectory(run).create()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_refused(tmp_path):
    refuse_existing(tmp_path / "nothing")
    with pytest.raises(ArgumentError, match=r"exists\. Give --out another name"):
        refuse_existing(tmp_path)


def test_results_are_strict_json(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_result({"a": math.inf, "b": [math.nan, 1.5], "c": {"d": -math.inf}, "e": "é"})
    text = directory.result.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": None}, "e": "é"}
    assert directory.read_result() == json.loads(text)


def test_there_need_not_be_a_result(tmp_path):
    assert RunDirectory(tmp_path).read_result() is None


def test_a_torn_last_row_is_left_out(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.steps.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert directory.read_steps() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("text", ['{"step": 2}\n', '{"step": 1}\n{"step": 3}\n', "[1]\n", "\n"])
def test_rows_must_follow_each_other(tmp_path, text):
    directory = RunDirectory(tmp_path)
    directory.steps.write_text(text)
    with pytest.raises(CheckpointError, match=r"steps\.jsonl: line \d is not the row of step"):
        directory.read_steps()


def test_chosen_paths_are_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for choose in (lambda: default_path("gcg"), demo_path):
        paths = set()
        for _ in range(3):
            path = choose()
            path.mkdir(parents=True)
            paths.add(path)
        assert len(paths) == 3
        assert all(path.parent == Path("runs") for path in paths)
