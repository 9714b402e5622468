"""One job from the command line."""

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import ArgumentError
from pellucid.xlm._compose import compose_config
from pellucid.xlm._jobs import run_job

_NAME = re.compile(r"[\w.=,+-]+(/[\w.=,+-]+)*")


def run_command(
    overrides: Sequence[str], directories: Sequence[str], *, only_print: bool = False
) -> int:
    """Compose a configuration and run its job.

    Args:
        overrides: As on the command line.
        directories: Further directories of configurations.
        only_print: Print the configuration instead.

    Returns:
        The exit code.

    Raises:
        PellucidError: Whatever a user can put right.
    """
    cfg = compose_config(overrides, extra_dirs=directories)
    if only_print:
        print(OmegaConf.to_yaml(cfg), end="")  # noqa: T201
        return 0
    return run_composed(cfg)


def run_composed(cfg: Any) -> int:
    """Run the job of a composed configuration.

    Raises:
        ArgumentError: `job_name` is missing, or is no name for a directory.
    """
    if OmegaConf.is_missing(cfg, "job_name"):
        raise ArgumentError(
            "job_name is missing; give job_name=NAME, which names the run's directory"
        )
    name = str(cfg.job_name)
    if not _NAME.fullmatch(name) or ".." in name:
        raise ArgumentError(
            f"job_name {name!r} is no name for a directory; use letters, digits, '_', '-' and '/'"
        )
    return run_job(cfg)


__all__ = ["run_command", "run_composed"]
