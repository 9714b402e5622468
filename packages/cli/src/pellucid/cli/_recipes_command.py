"""The options of `pellucid recipes`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli._waiting import abortable, waiting

recipes_app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode="rich",
    epilog=(
        "[dim]Example[/dim]  pellucid recipes show gcg__zou2023\n\n"
        "[dim]Run one[/dim]  pellucid recipes run gcg__zou2023 --model zoo:tiny-chat "
        "--template 'What colour is the sky? {{OPTIMIZED_TRIGGER}}' --target 'The sky is green.'"
    ),
)

_WHAT = "What to optimise"
_BESIDE = "Models beside the target"
_RUN = "The run"


def show_list(context: Any) -> None:
    """List published methods, show one, or run one by its name.

    Without a further word, all are listed: name, paper, what the method asks of
    the model, and what it is for.
    """
    if context.invoked_subcommand is not None:
        return
    with abortable(), waiting("reading the recipes"):
        from pellucid.cli import _recipes  # noqa: PLC0415

        listed = _recipes.find_all()
    _recipes.show_all(listed)


# Typer goes by this annotation, and then passes a context of another class.
show_list.__annotations__["context"] = typer.Context
recipes_app.callback()(show_list)


@recipes_app.command(epilog="[dim]Example[/dim]  pellucid recipes show qcg__hayase2024")
def show(
    name: Annotated[str, typer.Argument(help="The recipe, as `pellucid recipes` lists it.")],
) -> None:
    """Show a recipe: its paper, optimizer, losses, settings, and the models it takes."""
    with abortable(), waiting("reading the recipes"):
        from pellucid.cli import _recipes  # noqa: PLC0415

        found = _recipes.find(name)
    _recipes.show_one(found)


@recipes_app.command(
    epilog=(
        "[dim]Example[/dim]  pellucid recipes run gcg__zou2023 --model zoo:tiny-chat "
        "--template 'What colour is the sky? {{OPTIMIZED_TRIGGER}}' "
        "--target 'The sky is green.' --steps 100 --set n_candidates=64\n\n"
        "[dim]From a file[/dim]  pellucid recipes run --config run.yaml --seed 3\n\n"
        "[dim]A sweep[/dim]  python -m pellucid.recipes -m recipe=gcg__zou2023 seed=0,1,2"
    )
)
def run(
    name: Annotated[
        str | None, typer.Argument(help="The recipe, as `pellucid recipes` lists it.")
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with the fields of a RecipeConfig; options given beside it win.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            show_default="zoo:tiny-chat",
            help="zoo:NAME, a directory, a name on the Hugging Face hub, hf-encoder:NAME, or "
            "litellm:PROVIDER/NAME.",
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
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A prompt with {{OPTIMIZED_TRIGGER}} where the trigger shall stand. "
            "Give it several times for one trigger that works in all of them.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="What the model shall answer, or the text whose vector an encoder's shall "
            "approach: once for each template, in the same order.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    proxy_model: Annotated[
        str | None, typer.Option(help="A model as above.", rich_help_panel=_BESIDE)
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option(help="A model as above.", rich_help_panel=_BESIDE)
    ] = None,
    util_lm: Annotated[
        str | None, typer.Option(help="A model as above.", rich_help_panel=_BESIDE)
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model as above.", rich_help_panel=_BESIDE)
    ] = None,
    teacher_model: Annotated[
        str | None, typer.Option(help="A model as above.", rich_help_panel=_BESIDE)
    ] = None,
    initial_trigger: Annotated[
        str | None,
        typer.Option(show_default="the recipe's", help="Where to start.", rich_help_panel=_RUN),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(show_default="0", help="Makes the run repeatable.", rich_help_panel=_RUN),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            show_default="the recipe's", help="Steps to make at most.", rich_help_panel=_RUN
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the optimizer in place of the recipe's; may be given several times.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Directory of a table of results. A run that is in it is not made again; one "
            "that was cut short goes on, bit for bit.",
            rich_help_panel=_RUN,
        ),
    ] = Path("runs/recipes"),
) -> None:
    """Run a published method against a model, and add the result to a table.

    Ctrl-C ends the run after its step; the same command goes on from there.
    """
    given = {
        "recipe": name,
        "model": model,
        "base_url": base_url,
        "templates": template,
        "targets": target,
        "proxy_model": proxy_model,
        "draft_model": draft_model,
        "util_lm": util_lm,
        "judge": judge,
        "teacher_model": teacher_model,
        "initial_trigger": initial_trigger,
        "seed": seed,
        "num_steps": steps,
    }
    options = {key: held for key, held in given.items() if held is not None}
    with abortable():
        with waiting("loading the model"):
            from pellucid.cli import _recipes  # noqa: PLC0415

            asked = _recipes.read_request(config, options, settings or [])
        code = _recipes.run_and_show(asked, out)
    raise typer.Exit(code)
