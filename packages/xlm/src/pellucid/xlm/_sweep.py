"""Many jobs at once, by a launcher of Hydra."""

import sys
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pellucid.xlm._command import run_composed
from pellucid.xlm._compose import CONFIG_DIR, register_families
from pellucid.xlm._resolvers import register_resolvers

# Hydra would set up the logging of the whole process, and nobody would set it back.
_HYDRA = (
    "hydra.output_subdir=null",
    "hydra.sweep.dir=${paths.log_dir}/${job_name}",
    "hydra/hydra_logging=none",
    "hydra/job_logging=none",
)


def sweep(overrides: Sequence[str], directories: Sequence[str]) -> int:
    """Run every combination of the overrides' values.

    Each job writes to `logs/JOB_NAME/N`, where N is its number. Which launcher runs them is
    `hydra/launcher=NAME`: one after the other in this process unless another one is installed.

    Args:
        overrides: As on the command line; values parted by commas are tried in turn.
        directories: Further directories of configurations.

    Returns:
        0; a job that fails ends the sweep.
    """
    register_families(directories)
    register_resolvers()
    before = sys.argv
    sys.argv = ["xlm", "-m", *_HYDRA, *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")(_job)()
    finally:
        sys.argv = before
    return 0


def _job(cfg: Any) -> int:
    choices = HydraConfig.get().runtime.choices
    number = HydraConfig.get().job.num
    OmegaConf.set_struct(cfg, False)
    cfg.job_name = f"{cfg.job_name}/{number}"
    cfg.choices = {str(k): v for k, v in choices.items() if "@" not in k and "hydra/" not in k}
    return run_composed(cfg)


__all__ = ["sweep"]
