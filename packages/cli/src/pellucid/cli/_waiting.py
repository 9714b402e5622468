"""What a command shows while it takes its time, and how Ctrl-C leaves it."""

from collections.abc import Generator
from contextlib import contextmanager

import typer


@contextmanager
def abortable() -> Generator[None]:
    """Turn Ctrl-C into what every version of typer hands on as it is."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Abort from error


@contextmanager
def waiting(doing: str) -> Generator[None]:
    """Show on a terminal, and nowhere else, that something takes its time."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(doing):
            yield
    else:
        yield
