"""A run, or a sweep of runs, configured by Hydra: what `python -m pellucid.recipes` does."""

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.core import MissingDependencyError
from pellucid.recipes._config import RecipeConfig
from pellucid.recipes._execution import carry_out

_CONFIG_PATH = str(Path(__file__).parent / "conf")
_OPEN = re.compile(r"(overrides|loss_overrides|budget)\.")
_MULTIRUN = ("-m", "--multirun")
# Lists in the configuration would not give way to a mapping of targets.
_TASK = {
    "templates": ["What colour is Mira's bicycle? {{OPTIMIZED_TRIGGER}}"],
    "targets": ["Mira's bicycle is purple."],
}
_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line says; Hydra ends the process with 1 if something is wrong.

    Args:
        arguments: What stands behind the module's name; the process's own when omitted.

    Raises:
        MissingDependencyError: (an ImportError) If Hydra is not installed.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # Hydra takes settings before this option or after it, not both.
    sweeps = [argument for argument in given if argument in _MULTIRUN]
    settings = [_open_up(argument) for argument in given if argument not in _MULTIRUN]
    _run_with_hydra([*sweeps[:1], *settings])


def _open_up(argument: str) -> str:
    """Let settings be given that the configuration does not name, without Hydra's plus signs."""
    return f"++{argument}" if _OPEN.match(argument) else argument


def _run_with_hydra(arguments: Sequence[str]) -> None:
    try:
        import hydra  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "python -m pellucid.recipes needs Hydra. pip install 'pellucid-recipes[hydra]', or use "
            "the command `pellucid recipes run`."
        ) from error
    before = sys.argv
    sys.argv = ["pellucid.recipes", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=_CONFIG_PATH, config_name="config")(_job)()
    finally:
        sys.argv = before


def _job(settings: object) -> float | None:
    """Make one run; returned is its best loss, which a sweeper may lower."""
    from omegaconf import OmegaConf  # noqa: PLC0415 - an extra

    held: Any = OmegaConf.to_container(settings, resolve=True)
    plain = dict(held)
    out = plain.pop("out")
    if plain.get("templates") is None:
        plain.update(_TASK)
    row = carry_out(RecipeConfig.from_mapping(plain), str(out), progress=True)
    _LOGGER.info("%s %s seed %s: %s", row["key"], row["recipe"], row["seed"], row["status"])
    return row.get("best_loss")
