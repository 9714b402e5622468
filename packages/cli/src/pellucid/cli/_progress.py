"""How a run looks while it goes on: a live bar on a terminal, plain lines anywhere else."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pellucid.cli._visible import visible
from pellucid.optimizers import Step

SECONDS_BETWEEN_LINES = 2.0
"""How long nothing is written after a plain line."""

Show: TypeAlias = Callable[[Step], None]
"""Shows one step."""


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that shows texts as they are: no markup, no emoji codes, no colouring."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(console: Console, total: int, done: int = 0) -> Generator[Show]:
    """Show the steps of a run while the context lasts.

    Args:
        console: Where to show them.
        total: How many steps the run makes at most.
        done: How many it has made before.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        with _live(console, total, done) as show:
            yield show
    else:
        lines = _Lines(console, total)
        yield lines.show
        lines.flush()


@contextmanager
def _live(console: Console, total: int, done: int) -> Generator[Show]:
    bar = Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}  best {task.fields[best]}  {task.fields[tokens]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("", total=total, completed=done, loss="-", best="-", tokens="")
    start = Text("the initial trigger is evaluated ...", style="dim")
    with Live(Group(bar, start), console=console, refresh_per_second=8) as live:

        def show(step: Step) -> None:
            tokens = f"{count(step.tokens)} tokens"
            loss, best = f"{step.loss:.4f}", f"{step.best_loss:.4f}"
            bar.update(task, completed=step.step, loss=loss, best=best, tokens=tokens)
            live.update(Group(bar, _trigger_line(step.best_trigger)))

        yield show


def _trigger_line(trigger: str) -> Text:
    line = Text("best trigger  ", style="dim", no_wrap=True, overflow="ellipsis", end="")
    return line.append(visible(trigger), style="not dim bold")


class _Lines:
    """Writes a line now and then, and always the first and the last."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._written_at = float("-inf")
        self._pending: Step | None = None

    def show(self, step: Step) -> None:
        self._pending = step
        if time.monotonic() - self._written_at >= SECONDS_BETWEEN_LINES:
            self.flush()

    def flush(self) -> None:
        step = self._pending
        if step is None:
            return
        self._pending = None
        self._console.print(
            f"step {step.step}/{self._total}  loss {step.loss:.4f}  best {step.best_loss:.4f}  "
            f"{count(step.tokens)} tokens  {step.elapsed_s:.1f} s  "
            f"best trigger: {visible(step.best_trigger)}"
        )
        self._written_at = time.monotonic()


def count(number: int) -> str:
    """Return a number as people write it: 950, 12.3k, 4.56M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
