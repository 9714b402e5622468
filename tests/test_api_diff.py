"""The comparison of a public API with the one that was released."""

import subprocess

import pytest

import api_diff

BEFORE = '''
LIMIT = 3


def keep(x: int, *, y: int = 1) -> int: ...
def gone(): ...
def _hidden(): ...


class Kind:
    """A kind."""

    def method(self, a: int) -> int: ...
    def _private(self): ...
'''
NAMES = "from pellucid.losses._square import {names}\n__all__ = [{quoted}]\n"


def git(root, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def export(root, *names):
    text = NAMES.format(names=", ".join(names), quoted=", ".join(map(repr, names)))
    (root / "packages/losses/src/pellucid/losses/__init__.py").write_text(text)


@pytest.fixture
def released(toy):
    """A workspace whose package losses has been released as 0.1.0."""
    (toy / "packages/losses/src/pellucid/losses/_square.py").write_text(BEFORE)
    export(toy, "LIMIT", "Kind", "gone", "keep")
    git(toy, "init", "-q")
    git(toy, "add", "-A")
    git(toy, "commit", "-qm", "first")
    git(toy, "tag", "pellucid-losses-v0.1.0")
    set_version(toy, "0.1.1")
    return toy


def set_version(root, version):
    path = root / "packages/losses/pyproject.toml"
    lines = path.read_text().split("\n")
    lines = [f'version = "{version}"' if line.startswith("version =") else line for line in lines]
    path.write_text("\n".join(lines))


def edit(root, old, new):
    path = root / "packages/losses/src/pellucid/losses/_square.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def write_news(root):
    path = root / "packages/losses/CHANGELOG.md"
    path.write_text("# Changelog\n\n## Unreleased\n\n- Something.\n")


def run(root, capsys, *words):
    status = api_diff.main(["losses", "--root", str(root), *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_what_has_not_changed_needs_no_words(released, capsys):
    status, out, err = run(released, capsys)
    assert (status, err) == (0, "")
    assert "pellucid-losses 0.1.1 since pellucid-losses-v0.1.0: 0 differences" in out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("x: int,", "x: int, z: int,", "! keep(z): Parameter was added as required"),
        ("a: int)", "b: int)", "! Kind.method(a): Parameter was removed"),
        ("method(", "other(", "! Kind.method: Public object was removed"),
        ("y: int = 1", "y: int = 2", "~ keep(y): Parameter default was changed"),
    ],
)
def test_every_change_is_told_and_what_breaks_is_refused(released, capsys, old, new, told):
    edit(released, old, new)
    write_news(released)
    status, out, err = run(released, capsys)
    assert told in out
    assert status == int(told.startswith("!"))
    assert ("uv version --package pellucid-losses --bump minor" in err) == (status == 1)


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0"])
def test_a_version_that_may_break_may(released, capsys, version):
    edit(released, "def gone(): ...", "")
    export(released, "LIMIT", "Kind", "keep")
    write_news(released)
    set_version(released, version)
    status, out, err = run(released, capsys)
    assert "! gone: Public object was removed" in out
    assert (status, err) == (0, "")


def test_new_names_belong_into_the_changelog(released, capsys):
    edit(released, "def gone(): ...", "def gone(): ...\ndef new(): ...")
    export(released, "LIMIT", "Kind", "gone", "keep", "new")
    status, out, err = run(released, capsys)
    assert "+ pellucid.losses.new" in out
    assert status == 1
    assert "packages/losses/CHANGELOG.md says nothing of it" in err
    write_news(released)
    assert run(released, capsys)[0] == 0


def test_what_is_private_may_change(released, capsys):
    edit(released, "def _hidden(): ...\n", "")
    edit(released, "    def _private(self): ...\n", "")
    assert run(released, capsys)[0] == 0


def test_the_tag_that_is_being_released_is_not_the_one_before(released, capsys):
    git(released, "tag", "pellucid-losses-v0.1.1")
    git(released, "tag", "pellucid-losses-v0.0.9")
    assert "since pellucid-losses-v0.1.0" in run(released, capsys)[1]


def test_a_first_release_has_nothing_before_it(released, capsys):
    git(released, "tag", "--delete", "pellucid-losses-v0.1.0")
    status, out, _ = run(released, capsys)
    assert status == 0
    assert "no release before it" in out


def test_what_cannot_be_read_is_refused(released, capsys):
    status, _, err = run(released, capsys, "--against", "nowhere")
    assert status == 2
    assert "'nowhere' holds no pellucid-losses" in err
    assert api_diff.main(["loses", "--root", str(released)]) == 2
    assert "'loses' is no package" in capsys.readouterr().err
