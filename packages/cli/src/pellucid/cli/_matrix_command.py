"""The options of `pellucid matrix`."""

from typing import Annotated

import typer

from pellucid.cli._waiting import abortable, waiting

MATRIX_EPILOG = (
    "[dim]Example[/dim]  pellucid matrix --model hf-lm --loss prefill-ce\n\n"
    "[dim]Why not?[/dim]  pellucid matrix --model hf-encoder --optimizer gcg --why\n\n"
    "[dim]For scripts[/dim]  pellucid matrix --json"
)


def matrix(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help="A registered model, such as hf-lm; may be given several times.",
        ),
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all", help="A registered optimizer, such as gcg; likewise several times."
        ),
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help="A registered loss, such as prefill-ce; likewise."),
    ] = None,
    why: Annotated[
        bool, typer.Option("--why", help="Say what is missing, and what would provide it.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write everything as JSON, one object for each triple.")
    ] = False,
) -> None:
    """Show which models, optimizers and losses go together.

    Compares what the installed packages declare; nothing is loaded, downloaded or
    computed. What goes together under a condition is marked with *: an argument
    must be given then, and [bold]--why[/bold] names it.
    """
    with abortable(), waiting("reading the declarations"):
        from pellucid.cli import _matrix  # noqa: PLC0415

        found = _matrix.find(model, optimizer, loss)
    if as_json:
        typer.echo(_matrix.to_json(found))
    else:
        _matrix.show(found, why=why)
