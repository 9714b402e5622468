"""Published methods of trigger optimisation, each as one record and one call.

`list_recipes` says what there is, `run` runs one by its name, with any model and with targets of
your own. `RecipeConfig` is the same as YAML, `carry_out` adds its result to a table that a killed
sweep goes on from, and `load_results` reads the table.
"""

from pellucid.recipes._config import RecipeConfig
from pellucid.recipes._execution import carry_out
from pellucid.recipes._listing import get_recipe, list_recipes
from pellucid.recipes._model_specs import load_model, load_tokenizer
from pellucid.recipes._recipe import (
    Access,
    LossPart,
    MiddleLayers,
    ModelKind,
    ModelRole,
    Paper,
    RandomStart,
    Recipe,
)
from pellucid.recipes._run import run
from pellucid.recipes._table import ResultsTable, RunFolder, load_results, load_rows

__all__ = [
    "Access",
    "LossPart",
    "MiddleLayers",
    "ModelKind",
    "ModelRole",
    "Paper",
    "RandomStart",
    "Recipe",
    "RecipeConfig",
    "ResultsTable",
    "RunFolder",
    "carry_out",
    "get_recipe",
    "list_recipes",
    "load_model",
    "load_results",
    "load_rows",
    "load_tokenizer",
    "run",
]
