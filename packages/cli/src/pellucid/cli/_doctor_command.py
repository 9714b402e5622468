"""The options of `pellucid doctor`."""

from typing import Annotated

import typer

from pellucid.cli._waiting import abortable, waiting

DOCTOR_EPILOG = (
    "[dim]Example[/dim]  pellucid doctor\n\n"
    "[dim]For scripts[/dim]  pellucid doctor --json (default: text)"
)


def doctor(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write everything that was found as JSON.")
    ] = False,
) -> None:
    """Show what is installed, what is missing, and what is broken.

    Versions, devices, packages with their extras and the command that installs
    each, and what goes together. Everything that packages register is imported:
    what fails is named with its reason and its remedy, and the exit code is 1.
    """
    with abortable(), waiting("looking at everything that is installed"):
        from pellucid.cli import _doctor, _doctor_pages  # noqa: PLC0415

        report = _doctor.examine()
    typer.echo(_doctor.to_json(report) if as_json else _doctor_pages.render(report))
    raise typer.Exit(1 if report.problems else 0)
