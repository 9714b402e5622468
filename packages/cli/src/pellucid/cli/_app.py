"""The commands, their options, and the one place where errors become a line and an exit code."""

import errno
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._doctor_command import DOCTOR_EPILOG, doctor
from pellucid.cli._inspect_command import INSPECT_EPILOG, inspect
from pellucid.cli._linearize_command import LINEARIZE_EPILOG, linearize
from pellucid.cli._matrix_command import MATRIX_EPILOG, matrix
from pellucid.cli._optimize_command import OPTIMIZE_EPILOG, optimize
from pellucid.cli._recipes_command import recipes_app
from pellucid.cli._visible import one_line
from pellucid.cli._waiting import abortable, waiting

# Everything else is imported by the command that needs it: torch alone takes seconds.

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="pellucid",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command with the arguments of the process, and end the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command.

    What a user can put right is told in one line on stderr; anything else keeps its traceback.

    Args:
        arguments: What stands behind `pellucid` on the command line.

    Returns:
        The exit code: 0, 1 when a demonstration missed its goal or the doctor found a problem, 2
        for bad input, 130 after Ctrl-C.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=list(arguments) or ["--help"], prog_name="pellucid", standalone_mode=False
        )
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("pellucid: interrupted.", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:
        message = _explain(error)
        if message is None or "--debug" in arguments:
            raise
        typer.echo(f"pellucid: {one_line(message)}", err=True)
        return EXIT_BAD_INPUT
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> str | None:
    """Return what to tell the user; None for what no user can put right."""
    if hasattr(error, "format_message"):  # a usage error: wrong options, wrong values
        message: str = getattr(error, "format_message")()  # noqa: B009
        return f"{message.rstrip('.')}. See pellucid --help."
    if isinstance(error, OSError):
        return _explain_os_error(error)
    # Whoever raises one has imported this module, and nobody shall wait for it otherwise.
    core = sys.modules.get("pellucid.core")
    return str(error) if core is not None and isinstance(error, core.PellucidError) else None


def _explain_os_error(error: OSError) -> str | None:
    if error.errno in _NO_SPACE:
        return f"{error.strerror}. Make room, or write elsewhere with --out."
    if error.filename is None:
        return None
    return f"{error.filename!r}: {error.strerror}. Correct the path, or allow access to it."


def _show_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"pellucid {version('pellucid-cli')}")
        raise typer.Exit
    return requested


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error.")
    ] = False,
) -> None:
    """See into language models: optimise a trigger, and watch what it does.

    [bold]pellucid demo[/bold] shows it in a few minutes, without a download.
    """
    del version, debug


@app.command(
    epilog="[dim]Example[/dim]  pellucid demo --seed 3 --out runs/first\n\n"
    "[dim]One stage[/dim]  pellucid demo --only train"
)
def demo(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help="A stage: optimize, inspect, linearize or train; may be given several times.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Makes the tour repeatable; try another one.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            show_default="runs/demo-TIME",
            help="Directory for what comes of it; it must not exist yet.",
        ),
    ] = None,
) -> None:
    """Take a tour of a few minutes on tiny models that come with Pellucid.

    Four stages of a minute at most: [bold]optimize[/bold] finds words that change a
    model's answer, [bold]inspect[/bold] shows where inside it changes,
    [bold]linearize[/bold] gives the model linear attention and trains that,
    [bold]train[/bold] trains a model that fills in masks, and watches it. One page,
    report.html, shows all of them with the commands that make every number
    again. The exit code is 1 if a stage failed or missed its goal.
    """
    with abortable():
        with waiting("starting"):
            from pellucid.cli import _tour  # noqa: PLC0415

            stages = _tour.choose_stages(only or ())
        code = _tour.take_tour(stages, seed, out)
    raise typer.Exit(code)


app.command(epilog=DOCTOR_EPILOG)(doctor)
app.command(epilog=INSPECT_EPILOG)(inspect)
app.command(epilog=LINEARIZE_EPILOG)(linearize)
app.command(epilog=MATRIX_EPILOG)(matrix)
app.command(epilog=OPTIMIZE_EPILOG)(optimize)
app.add_typer(recipes_app, name="recipes")
