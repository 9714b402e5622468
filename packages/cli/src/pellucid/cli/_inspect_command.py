"""The options of `pellucid inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._waiting import abortable, waiting

INSPECT_EPILOG = (
    "[dim]Example[/dim]  pellucid inspect zoo:tiny-chat 'What colour is the sky?' "
    "--report runs/sky.html"
)


def inspect(
    model: Annotated[
        str, typer.Argument(help="zoo:NAME, a directory, or a name on the Hugging Face hub.")
    ],
    prompt: Annotated[str, typer.Argument(help="What the model is given.")],
    *,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page to look around in: attention, logit lens, attribution."),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Take the prompt as it is, though there is a chat template."),
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            show_default="the likeliest",
            help="The token whose logit is taken apart, such as ' blue'.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            show_default="the likeliest other one", help="The token whose logit is subtracted."
        ),
    ] = None,
) -> None:
    """Look into a model while it reads a prompt.

    Prints what it would say next after every block, and which heads and MLPs
    speak for that. With --report, writes one page, which needs nothing but
    itself: choose a head to see its attention over the tokens.
    """
    with abortable(), waiting("running the model"):
        from pellucid.cli import _inspect  # noqa: PLC0415

        asked = _inspect.Question(
            model=model, prompt=prompt, raw=raw, token=token, against=against, report=report
        )
        page = _inspect.look(asked)
        if report is not None:
            _inspect.write_page(page, report)
    _inspect.show(page, report)
