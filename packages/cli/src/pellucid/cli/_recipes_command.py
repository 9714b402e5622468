"""The options of `pellucid recipes`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli import _options as options
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
    config: options.RecipeConfigFile = None,
    model: options.RecipeModel = None,
    base_url: options.BaseURL = None,
    template: options.RecipeTemplates = None,
    target: options.RecipeTargets = None,
    proxy_model: options.ModelBeside = None,
    draft_model: options.ModelBeside = None,
    util_lm: options.ModelBeside = None,
    judge: options.ModelBeside = None,
    teacher_model: options.ModelBeside = None,
    initial_trigger: options.RecipeTrigger = None,
    seed: options.RecipeSeed = None,
    steps: options.RecipeSteps = None,
    settings: options.RecipeSettings = None,
    out: options.Table = Path("runs/recipes"),
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
    chosen = {key: held for key, held in given.items() if held is not None}
    with abortable():
        with waiting("loading the model"):
            from pellucid.cli import _recipes  # noqa: PLC0415

            asked = _recipes.read_request(config, chosen, settings or [])
        code = _recipes.run_and_show(asked, out)
    raise typer.Exit(code)
