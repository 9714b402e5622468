"""Writes docs/recipes.md, the table of all recipes: uv run python tools/recipes_page.py [--check].

With --check, nothing is written; the exit code is 1 if the page is not current.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pellucid import recipes
from pellucid.recipes import ModelKind, Recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"

_HOME = "pellucid.recipes."
_KINDS = {
    ModelKind.LANGUAGE_MODEL: "Language models",
    ModelKind.ENCODER: "Encoders",
    ModelKind.CLASSIFIER: "Classifiers",
}
_HEAD = """# Recipes

<!-- Written by tools/recipes_page.py; change the records in packages/recipes instead. -->

Published methods that [pellucid-recipes](../packages/recipes/README.md) runs by name. Models,
templates and targets are the caller's. Two underscores and a citation end the name of a method that
follows the paper's algorithm and settings, but for what is said to differ; others are variants.
Settings that are not listed are the optimizer's defaults; any can be changed with `overrides`.
*White box* takes gradients of the model, *black box* no more than losses of texts.
"""


def render(listed: Sequence[Recipe]) -> str:
    """Return the page."""
    ours = [recipe for recipe in listed if _is_ours(recipe)]
    lines = [_HEAD]
    for kind, title in _KINDS.items():
        chosen = [recipe for recipe in ours if recipe.model_kind is kind]
        lines += [f"## {title}\n", "| recipe | what for | access | paper |", "|---|---|---|---|"]
        lines += [_row(recipe) for recipe in chosen]
        lines += ["", *(line for recipe in chosen for line in _details(recipe)), ""]
    lines += ["## Papers\n", *_papers(ours)]
    return "\n".join(lines).rstrip() + "\n"


def _is_ours(recipe: Recipe) -> bool:
    entries = entry_points(group="pellucid.recipes")
    return any(e.name == recipe.name and e.value.startswith(_HOME) for e in entries)


def _row(recipe: Recipe) -> str:
    paper = recipe.paper.cite() if recipe.paper else ""
    also = "".join(f", `{alias}`" for alias in recipe.aliases)
    return f"| `{recipe.name}`{also} | {recipe.summary} | {recipe.access.value} | {paper} |"


def _details(recipe: Recipe) -> Iterator[str]:
    parts = [_with(f"`{recipe.optimizer}`", recipe.settings)]
    losses = [_with(f"{part.weight:g} `{part.name}`", part.settings) for part in recipe.losses]
    parts += [f"loss {' + '.join(losses)}"]
    if recipe.model_options:
        parts += [f"the model is made with `{_list(recipe.model_options)}`"]
    for role in recipe.roles:
        needed = "needs" if role.is_required else "may take"
        parts += [f"{needed} `{role.argument}=`, {role.what}"]
    if recipe.initial_trigger is not None:
        parts += [f"starts with `{recipe.initial_trigger!r}`"]
    if recipe.min_templates > 1:
        parts += [f"for {recipe.min_templates} templates or more"]
    differs = f" {recipe.differs}" if recipe.differs else ""
    yield f"- **{recipe.name}**: {'; '.join(parts)}.{differs}"


def _with(name: str, settings: Mapping[str, Any]) -> str:
    return f"{name} with `{_list(settings)}`" if settings else name


def _list(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={held!r}" for name, held in settings.items())


def _papers(listed: Sequence[Recipe]) -> Iterator[str]:
    papers = {recipe.paper.title: recipe.paper for recipe in listed if recipe.paper}
    for paper in sorted(papers.values(), key=lambda paper: (paper.year, paper.authors)):
        where = (
            f" [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})." if paper.arxiv else ""
        )
        yield f"- {', '.join(paper.authors)} ({paper.year}). {paper.title}.{where}"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or say whether it is current."""
    text = render(recipes.list_recipes())
    if "--check" in arguments:
        is_current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("current" if is_current else f"{PAGE.name} is not current: run this without --check")
        return 0 if is_current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
