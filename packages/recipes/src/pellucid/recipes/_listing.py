"""Finds recipes by name: ours and those of other distributions, registered alike."""

from pellucid.core import RequirementError, load, names
from pellucid.recipes._recipe import Recipe

_GROUP = "pellucid.recipes"


def list_recipes() -> list[Recipe]:
    """Return every registered recipe, once each, by name.

    Raises:
        MissingDependencyError: If one that is registered cannot be imported.
        RequirementError: If one is no recipe, or is registered under a name that it does not bear.
    """
    found = {recipe.name: recipe for recipe in map(get_recipe, names(_GROUP))}
    return [found[name] for name in sorted(found)]


def get_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Args:
        name: As it is registered in the entry-point group `pellucid.recipes`.

    Raises:
        UnknownNameError: (a ValueError and LookupError) If there is none; near matches are offered.
        RequirementError: (a TypeError) If `name` is no text, or what is registered is no recipe of
            this name.
    """
    if not isinstance(name, str):
        raise RequirementError(
            f"a recipe is named by a text such as 'gcg__zou2023', got {name!r}. Pass its name "
            "first, and all else by keyword."
        )
    recipe = load(_GROUP, name)
    if not isinstance(recipe, Recipe) or name not in (recipe.name, *recipe.aliases):
        raise RequirementError(
            f"the entry point {name!r} in {_GROUP!r} stands for {recipe!r}, expected a Recipe of "
            "this name. Correct its distribution, or remove it."
        )
    return recipe
