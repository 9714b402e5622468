"""Lists, shows and runs recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from pellucid.cli._interrupt import Interrupt
from pellucid.cli._progress import make_console
from pellucid.cli._visible import visible
from pellucid.core import ArgumentError
from pellucid.recipes import (
    Recipe,
    RecipeConfig,
    ResultsTable,
    carry_out,
    get_recipe,
    list_recipes,
)

EXIT_INTERRUPTED = 130
_DEFAULT_MODEL = "zoo:tiny-chat"
_WIDE = 240


def find_all() -> list[Recipe]:
    """Return every recipe."""
    return list_recipes()


def find(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        UnknownNameError: If there is none of this name; near matches are offered.
    """
    return get_recipe(name)


def show_all(recipes: Sequence[Recipe]) -> None:
    """Print recipes as a table."""
    table = Table("recipe", "paper", "access", "what for", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for recipe in recipes:
        paper = "" if recipe.paper is None else recipe.paper.cite()
        table.add_row(*map(Text, (recipe.name, paper, recipe.access.value, recipe.summary)))
    console = make_console()
    if not console.is_terminal:
        # Where nobody watches, a line is one recipe, however long.
        console.width = _WIDE
    console.print(table)


def show_one(recipe: Recipe) -> None:
    """Print a recipe."""
    console = make_console()
    for label, text in _describe(recipe):
        console.print(f"{label:<16}{visible(text)}")


def read_request(
    path: Path | None, options: Mapping[str, Any], settings: Sequence[str]
) -> RecipeConfig:
    """Return what is to be run.

    Args:
        path: A YAML file, or None.
        options: What the command line says beside it.
        settings: Settings of the optimizer, each as NAME=VALUE.

    Raises:
        PellucidError: If anything is not as it must be.
    """
    held = {} if path is None else RecipeConfig.load(path).to_mapping()
    merged: dict[str, Any] = {"model": _DEFAULT_MODEL, **held, **options}
    if "recipe" not in merged:
        raise ArgumentError(
            "no recipe is named. Write pellucid recipes run NAME, or give --config FILE; "
            "`pellucid recipes` lists the names."
        )
    get_recipe(merged["recipe"])
    if not merged.get("templates"):
        raise ArgumentError(
            "there is no template. Give --template at least once, with {{OPTIMIZED_TRIGGER}} where "
            "the trigger shall stand."
        )
    chosen = dict(map(_read_setting, settings))
    merged["overrides"] = {**merged.get("overrides", {}), **chosen}
    return RecipeConfig.from_mapping(merged)


def run_and_show(config: RecipeConfig, out: Path) -> int:
    """Make a run, or go on with it, and print its row of the table.

    Args:
        config: What to run.
        out: Directory of the table.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    errors = make_console(stderr=True)
    interrupt = Interrupt(
        lambda: errors.print("Ctrl-C: this step is finished first; once more ends it at once.")
    )
    with interrupt:
        row = carry_out(config, out, callbacks=[interrupt], progress=True)
    console = make_console()
    for label, text in _summarize(row, ResultsTable(out), interrupted=interrupt.requested):
        console.print(f"{label:<16}{visible(text)}")
    return EXIT_INTERRUPTED if interrupt.requested else 0


def _describe(recipe: Recipe) -> list[tuple[str, str]]:
    rows = [("recipe", recipe.name), ("what for", recipe.summary)]
    if recipe.paper is not None:
        rows += [("paper", f"{recipe.paper.title}. {recipe.paper.cite()}")]
    rows += [("access", recipe.access.value), ("model", recipe.model_kind.value)]
    rows += [("model option", f"{name}={held!r}") for name, held in recipe.model_options.items()]
    rows += [("optimizer", recipe.optimizer)]
    rows += [("setting", f"{name}={held!r}") for name, held in recipe.settings.items()]
    for part in recipe.losses:
        settings = ", ".join(f"{name}={held!r}" for name, held in part.settings.items())
        rows += [("loss", f"{part.weight:g} x {part.name}({settings})")]
    for role in recipe.roles:
        needed = "needed" if role.is_required else "optional"
        option = f"--{role.argument.replace('_', '-')}"
        rows += [("further model", f"{option} ({needed}): {role.what}")]
    if recipe.initial_trigger is not None:
        rows += [("starts with", repr(recipe.initial_trigger))]
    if recipe.differs:
        rows += [("differs", recipe.differs)]
    rows += [("also known as", alias) for alias in recipe.aliases]
    return rows


def _summarize(
    row: Mapping[str, Any], table: ResultsTable, *, interrupted: bool
) -> list[tuple[str, str]]:
    key = str(row["key"])
    if "best_loss" not in row:
        return [("unfinished", "another process is making this run")]
    head = "interrupted" if interrupted else str(row["status"])
    before, after = _show(row["initial_loss"]), _show(row["best_loss"])
    rows = [
        (head, f"after {row['steps']} steps (ended by: {row['stop_reason']})"),
        ("loss", f"{before} -> {after}, verified as text: {_show(row['verified_loss'])}"),
        ("best trigger", str(row["best_trigger"])),
        ("run", str(table.folder(key).path)),
        ("table", str(table.file)),
    ]
    if interrupted:
        rows += [("go on with", "the same command")]
    return rows


def _show(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4f}"


def _read_setting(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ArgumentError(f"--set expects NAME=VALUE, got {text!r}. Write --set n_candidates=64.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ArgumentError(f"--set {text!r}: the value cannot be read as YAML.") from error
