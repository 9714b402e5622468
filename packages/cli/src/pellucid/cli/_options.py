"""The options of commands that search for a trigger: what each takes, and what its help says."""

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_STEPS = 500

_WHAT = "What to optimise"
_HOW = "How to search"
_RUN = "The run"
_BESIDE = "Models beside the target"


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an integer") from error


def _integer(*, default: str, text: str, panel: str) -> Any:
    """An option that is an integer; `default` says what it is where nobody gives it."""
    return typer.Option(
        parser=_parse_integer,
        metavar="INTEGER",
        show_default=default,
        help=text,
        rich_help_panel=panel,
    )


# What to optimise.

Templates = Annotated[
    list[str] | None,
    typer.Option(
        help="A prompt with {{OPTIMIZED_TRIGGER}} where the trigger shall stand, or with "
        "{{OPTIMIZED_TRIGGER_1}}, {{OPTIMIZED_TRIGGER_2}} where its parts shall. "
        "Give it several times for one trigger that works in all of them.",
        rich_help_panel=_WHAT,
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        help="What the model shall answer: once for each template, in the same order.",
        rich_help_panel=_WHAT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        show_default="zoo:tiny-chat",
        help="zoo:NAME, a directory, a name on the Hugging Face hub, or litellm:PROVIDER/NAME.",
        rich_help_panel=_WHAT,
    ),
]
BaseURL = Annotated[
    str | None,
    typer.Option(
        help="Address of an OpenAI-compatible server; with litellm: only.",
        rich_help_panel=_WHAT,
    ),
]

# How to search.

Optimizer = Annotated[
    str | None,
    typer.Option(
        show_default="gcg; random-search with litellm:",
        help="gcg, random-search, ...",
        rich_help_panel=_HOW,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        show_default="prefill-ce; target-start-nll with litellm:",
        help="prefill-ce, first-token-nll, trigger-perplexity, ...",
        rich_help_panel=_HOW,
    ),
]
InitialTrigger = Annotated[
    list[str] | None,
    typer.Option(
        show_default="twenty exclamation marks",
        help="Where to start; its length in tokens is that of every trigger. "
        "Give it once for each part if the trigger has several.",
        rich_help_panel=_HOW,
    ),
]
Candidates = Annotated[
    int | None,
    _integer(
        default="the optimizer's",
        text="Triggers that are tried in a step.",
        panel=_HOW,
    ),
]
TopK = Annotated[
    int | None,
    _integer(
        default="the optimizer's",
        text="Most promising tokens to draw from at each position.",
        panel=_HOW,
    ),
]
Seed = Annotated[
    int | None,
    _integer(
        default="drawn, and written down",
        text="Makes the run repeatable.",
        panel=_HOW,
    ),
]

# The run.

Steps = Annotated[
    int | None,
    _integer(
        default=str(DEFAULT_STEPS),
        text="Steps to make at most.",
        panel=_RUN,
    ),
]
BudgetTokens = Annotated[
    int | None,
    _integer(
        default="none",
        text="Tokens the model may be given; the run ends after the step that exceeds it.",
        panel=_RUN,
    ),
]
NoStop = Annotated[
    bool,
    typer.Option(
        "--no-stop", help="Go on when every answer equals its target.", rich_help_panel=_RUN
    ),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        show_default="none",
        help="Record the run with wandb, tensorboard, trackio, print, ..., too; may be given "
        "several times.",
        rich_help_panel=_RUN,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        show_default="runs/TIME-OPTIMIZER",
        help="Directory for what comes of it; it must not exist yet.",
        rich_help_panel=_RUN,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Directory of a run to go on with, bit for bit; of the other options, only "
        "--steps and --budget-tokens may then differ.",
        rich_help_panel=_RUN,
    ),
]

# Those that `recipes run` has in place of these, or beside them.

RecipeConfigFile = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file with the fields of a RecipeConfig; options given beside it win.",
        rich_help_panel=_RUN,
    ),
]
RecipeModel = Annotated[
    str | None,
    typer.Option(
        show_default="zoo:tiny-chat",
        help="zoo:NAME, a directory, a name on the Hugging Face hub, hf-encoder:NAME, or "
        "litellm:PROVIDER/NAME.",
        rich_help_panel=_WHAT,
    ),
]
RecipeTemplates = Annotated[
    list[str] | None,
    typer.Option(
        help="A prompt with {{OPTIMIZED_TRIGGER}} where the trigger shall stand. "
        "Give it several times for one trigger that works in all of them.",
        rich_help_panel=_WHAT,
    ),
]
RecipeTargets = Annotated[
    list[str] | None,
    typer.Option(
        help="What the model shall answer, or the text whose vector an encoder's shall "
        "approach: once for each template, in the same order.",
        rich_help_panel=_WHAT,
    ),
]
ModelBeside = Annotated[str | None, typer.Option(help="A model as above.", rich_help_panel=_BESIDE)]
RecipeTrigger = Annotated[
    str | None,
    typer.Option(show_default="the recipe's", help="Where to start.", rich_help_panel=_RUN),
]
RecipeSeed = Annotated[
    int | None,
    _integer(default="0", text="Makes the run repeatable.", panel=_RUN),
]
RecipeSteps = Annotated[
    int | None,
    _integer(default="the recipe's", text="Steps to make at most.", panel=_RUN),
]
RecipeSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the optimizer in place of the recipe's; may be given several times.",
        rich_help_panel=_RUN,
    ),
]
Table = Annotated[
    Path,
    typer.Option(
        help="Directory of a table of results. A run that is in it is not made again; one "
        "that was cut short goes on, bit for bit.",
        rich_help_panel=_RUN,
    ),
]
