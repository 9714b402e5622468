import io

import pytest
from rich.console import Console

from pellucid.cli import _progress
from pellucid.cli._progress import count, make_console, progress
from pellucid.optimizers import Step

EVIL = "[bold]x[/bold] [/] :smile: \x1b[2J\r\n"


def step(number, trigger="abc"):
    return Step(
        step=number,
        loss=2.5,
        best_loss=1.25,
        trigger=trigger,
        best_trigger=trigger,
        elapsed_s=0.5 * number,
        tokens=1500 * number,
    )


def plain():
    return Console(file=io.StringIO(), markup=False, emoji=False, highlight=False, soft_wrap=True)


def text_of(console):
    return console.file.getvalue()


def test_plain_lines_show_first_and_last_step():
    console = plain()
    with progress(console, 9) as show:
        for number in range(1, 10):
            show(step(number))
    lines = text_of(console).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1/9  loss 2.5000  best 1.2500  1.5k tokens  0.5 s")
    assert lines[1].startswith("step 9/9")


def test_plain_lines_come_now_and_then(monkeypatch):
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: float(next(clock)))
    console = plain()
    with progress(console, 9) as show:
        for number in range(1, 10):
            show(step(number))
    assert 2 < len(text_of(console).splitlines()) < 9


def test_a_run_without_steps_says_nothing():
    console = plain()
    with progress(console, 9):
        pass
    assert text_of(console) == ""


def test_plain_lines_are_safe():
    console = plain()
    with progress(console, 1) as show:
        show(step(1, EVIL))
    assert text_of(console).count("\n") == 1
    assert r"best trigger: [bold]x[/bold] [/] :smile: \x1b[2J\r\n" in text_of(console)


@pytest.fixture
def terminal():
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=160,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def test_a_terminal_shows_a_bar(terminal):
    with progress(terminal, 9, done=3) as show:
        show(step(4))
    shown = text_of(terminal)
    for part in ("4/9", "1.2500", "6k tokens", "best trigger", "abc"):
        assert part in shown


def test_a_terminal_is_safe(terminal):
    with progress(terminal, 2) as show:
        show(step(1, EVIL))
    shown = text_of(terminal)
    assert r"[bold]x[/bold] [/] :smile: \x1b[2J\r\n" in shown
    assert "\x1b[2J" not in shown


def test_a_long_trigger_stays_on_its_line(terminal):
    with progress(terminal, 2) as show:
        show(step(1, "word " * 200))
    assert "…" in text_of(terminal)


def test_consoles_show_texts_as_they_are(capsys):
    make_console().print("[bold]x[/bold] :smile: " + "y" * 200)
    assert capsys.readouterr().out == "[bold]x[/bold] :smile: " + "y" * 200 + "\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (12345, "12.3k"), (4_560_000, "4.56M"), (10**9, "1G")],
)
def test_numbers_are_short(number, text):
    assert count(number) == text
