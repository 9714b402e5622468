"""What `job_type` can be."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._building import build, build_components
from pellucid.xlm._discovery import discover_families
from pellucid.xlm._resolvers import live_resolvers

Job = Callable[[Any], int | None]

_JOBS: Mapping[str, str] = {
    "eval": "pellucid.xlm._evaluation:evaluate",
    "extract_checkpoint": "pellucid.xlm._evaluation:extract",
    "generate": "pellucid.xlm._evaluation:generate",
    "name": "pellucid.xlm._jobs:print_name",
    "prepare_data": "pellucid.xlm._jobs:prepare_data",
    "print_predictor_params": "pellucid.xlm._jobs:print_predictor_params",
    "push_to_hub": "pellucid.xlm._evaluation:push",
    "train": "pellucid.xlm._training:train",
}
_COMMANDS_FILE = "commands.yaml"


def run_job(cfg: Any) -> int:
    """Run the job that a configuration asks for.

    Returns:
        The exit code.

    Raises:
        UnknownNameError: There is no such job.
    """
    jobs = list_jobs()
    if cfg.job_type not in jobs:
        raise UnknownNameError("job_type", str(cfg.job_type), jobs)
    return _resolve(jobs[cfg.job_type])(cfg) or 0


def list_jobs() -> dict[str, str]:
    """Return every job's name with where its function is, those of the families included."""
    jobs = dict(_JOBS)
    for family in discover_families():
        path = family.config_dir / _COMMANDS_FILE
        if path.is_file():
            added: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
            jobs |= {str(name): str(target) for name, target in added.items()}
    return jobs


def prepare_data(cfg: Any) -> int:
    """Download and preprocess, and do nothing else."""
    components = build_components(cfg)
    with live_resolvers(global_components=components, tokenizer=components.get("tokenizer")):
        data = build(cfg, "datamodule")
    data.prepare_data()
    print(f"prepared {cfg.paths.data_dir}")  # noqa: T201
    return 0


def print_name(cfg: Any) -> int:
    """Print the name of the job, its interpolations resolved."""
    print(cfg.job_name)  # noqa: T201
    return 0


def print_predictor_params(cfg: Any) -> int:
    """Print the settings of the predictor as they are composed."""
    print(OmegaConf.to_yaml(cfg.get("predictor") or {}))  # noqa: T201
    return 0


def _resolve(target: str) -> Job:
    module, _, name = target.rpartition(":" if ":" in target else ".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"the job at {target!r} cannot be imported: {error}") from error


__all__ = ["list_jobs", "run_job"]
