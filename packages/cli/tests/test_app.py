import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = ("jinja2", "pellucid.core", "pellucid.hf", "torch", "transformers")


def test_version(command):
    done = command("--version")
    assert (done.code, done.out, done.err) == (0, f"pellucid {version('pellucid-cli')}\n", "")


@pytest.mark.parametrize("options", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(command, options):
    done = command(*options)
    assert done.code == 0
    for name in ("demo", "doctor", "linearize", "matrix", "optimize", "--version"):
        assert name in done.out


@pytest.mark.parametrize("name", ["demo", "doctor", "linearize", "matrix", "optimize"])
def test_help_teaches_by_example(command, name):
    done = command(name, "--help")
    assert done.code == 0
    assert "Example" in done.out
    assert f"pellucid {name}" in done.out
    assert "default" in done.out


def test_help_names_every_option_of_optimize(command):
    from pellucid.cli._request import OPTIONS

    shown = command("optimize", "--help").out
    for option in (*OPTIONS.values(), "--out", "--resume"):
        assert option in shown


@pytest.mark.parametrize(
    "options",
    [
        ["--version"],
        ["--help"],
        ["doctor", "--help"],
        ["matrix", "--help"],
        ["linearize", "--help"],
        ["optimize", "--help"],
    ],
)
def test_help_imports_nothing_heavy(options):
    program = (
        "import sys; from pellucid.cli import run\n"
        f"assert run({options!r}) == 0\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_unexpected_error_keeps_its_traceback(tiny, asked, monkeypatch, tmp_path):
    from pellucid.cli import _setup

    def fail(spec, base_url=None):
        raise RuntimeError("a bug")

    monkeypatch.setattr(_setup, "load_model", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        tiny(*asked, "--out", tmp_path / "run")


def test_debug_keeps_the_traceback_of_every_error(command):
    from pellucid.core import TemplateError

    assert command("optimize").code == 2
    with pytest.raises(TemplateError, match="there is no template"):
        command("--debug", "optimize")


def test_ctrl_c_outside_a_run_is_one_line(tiny, asked, monkeypatch, tmp_path):
    from pellucid.cli import _setup

    def interrupt(spec, base_url=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(_setup, "load_model", interrupt)
    done = tiny(*asked, "--out", tmp_path / "run")
    assert done.code == 130
    assert list(tmp_path.iterdir()) == []


def test_an_error_with_control_characters_does_not_reach_the_terminal(tiny):
    done = tiny("optimize", "--template=\x1b[31m no slot", "--target=x")
    assert done.code == 2
    assert "\x1b" not in done.err


def test_main_ends_the_process(monkeypatch):
    from pellucid.cli import main

    monkeypatch.setattr(sys, "argv", ["pellucid", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
