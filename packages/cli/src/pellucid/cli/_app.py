"""The commands, their options, and the one place where errors become a line and an exit code."""

import errno
import secrets
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli._doctor_command import DOCTOR_EPILOG, doctor
from pellucid.cli._inspect_command import INSPECT_EPILOG, inspect
from pellucid.cli._linearize_command import LINEARIZE_EPILOG, linearize
from pellucid.cli._matrix_command import MATRIX_EPILOG, matrix
from pellucid.cli._recipes_command import recipes_app
from pellucid.cli._visible import one_line
from pellucid.cli._waiting import abortable, waiting

# Everything else is imported by the command that needs it: torch alone takes seconds.

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DEFAULT_STEPS = 500

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


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an integer") from error


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


_WHAT = "What to optimise"
_HOW = "How to search"
_RUN = "The run"


@app.command(
    epilog=(
        "[dim]Example[/dim]  pellucid optimize --template 'What colour is the sky? "
        "{{OPTIMIZED_TRIGGER}}' --target 'The sky is green.' --steps 200\n\n"
        "[dim]Go on[/dim]  pellucid optimize --resume runs/20300101-120000-gcg --steps 400"
    )
)
def optimize(
    *,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A prompt with {{OPTIMIZED_TRIGGER}} where the trigger shall stand, or with "
            "{{OPTIMIZED_TRIGGER_1}}, {{OPTIMIZED_TRIGGER_2}} where its parts shall. "
            "Give it several times for one trigger that works in all of them.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="What the model shall answer: once for each template, in the same order.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            show_default="zoo:tiny-chat",
            help="zoo:NAME, a directory, a name on the Hugging Face hub, or litellm:PROVIDER/NAME.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible server; with litellm: only.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            show_default="gcg; random-search with litellm:",
            help="gcg, random-search, ...",
            rich_help_panel=_HOW,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            show_default="prefill-ce; target-start-nll with litellm:",
            help="prefill-ce, first-token-nll, trigger-perplexity, ...",
            rich_help_panel=_HOW,
        ),
    ] = None,
    initial_trigger: Annotated[
        list[str] | None,
        typer.Option(
            show_default="twenty exclamation marks",
            help="Where to start; its length in tokens is that of every trigger. "
            "Give it once for each part if the trigger has several.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            parser=_integer,
            metavar="INTEGER",
            show_default="the optimizer's",
            help="Triggers that are tried in a step.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    topk: Annotated[
        int | None,
        typer.Option(
            parser=_integer,
            metavar="INTEGER",
            show_default="the optimizer's",
            help="Most promising tokens to draw from at each position.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=_integer,
            metavar="INTEGER",
            show_default="drawn, and written down",
            help="Makes the run repeatable.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            parser=_integer,
            metavar="INTEGER",
            show_default=str(_DEFAULT_STEPS),
            help="Steps to make at most.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    budget_tokens: Annotated[
        int | None,
        typer.Option(
            parser=_integer,
            metavar="INTEGER",
            show_default="none",
            help="Tokens the model may be given; the run ends after the step that exceeds it.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    no_stop: Annotated[
        bool,
        typer.Option(
            "--no-stop",
            help="Go on when every answer equals its target.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            show_default="none",
            help="Record the run with wandb, tensorboard, trackio, print, ..., too; may be given "
            "several times.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            show_default="runs/TIME-OPTIMIZER",
            help="Directory for what comes of it; it must not exist yet.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Directory of a run to go on with, bit for bit; of the other options, only "
            "--steps and --budget-tokens may then differ.",
            rich_help_panel=_RUN,
        ),
    ] = None,
) -> None:
    """Search for a trigger that makes a language model answer as you want.

    Writes a directory with config.json, steps.jsonl, result.json, report.html.
    Ctrl-C ends the run after its step; [bold]--resume[/bold] goes on from there.
    """
    given = {
        "model": model,
        "base_url": base_url,
        "templates": tuple(template) if template else None,
        "targets": tuple(target) if target else None,
        "optimizer": optimizer,
        "loss": loss,
        "initial_trigger": initial_trigger,
        "candidates": candidates,
        "topk": topk,
        "seed": seed,
        "steps": steps,
        "budget_tokens": budget_tokens,
        "stop_at_goal": False if no_stop else None,
        "trackers": tuple(tracker) if tracker else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if resume is not None and out is not None:
        raise typer.BadParameter(
            f"--resume writes to {str(resume)!r}, leave --out {str(out)!r} out."
        )
    with abortable():
        with waiting("loading the model"):
            from pellucid.cli import _optimize  # noqa: PLC0415

            if resume is not None:
                prepared = _optimize.prepare_resume(resume, options)
            else:
                # Services alone ask for an identity; without them equal runs are equal files.
                run_id = secrets.token_hex(4) if tracker else ""
                given = {**_defaults(model), "run_id": run_id, **options}
                prepared = _optimize.prepare_new(given, out)
        code = _optimize.show_run(*prepared, resumes=resume is not None)
    raise typer.Exit(code)


app.command(epilog=DOCTOR_EPILOG)(doctor)
app.command(epilog=INSPECT_EPILOG)(inspect)
app.command(epilog=LINEARIZE_EPILOG)(linearize)
app.command(epilog=MATRIX_EPILOG)(matrix)
app.add_typer(recipes_app, name="recipes")


def _defaults(model: str | None) -> dict[str, Any]:
    # A model behind an API answers text, and gives nothing else away.
    is_remote = model is not None and model.startswith("litellm:")
    return {
        "model": "zoo:tiny-chat",
        "optimizer": "random-search" if is_remote else "gcg",
        "loss": "target-start-nll" if is_remote else "prefill-ce",
        "templates": (),
        "targets": (),
        "steps": _DEFAULT_STEPS,
        "seed": secrets.randbelow(2**31),
    }
