"""What is installed, what was found, and what of it is wrong."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from pellucid.core import PellucidError, UnknownNameError
from pellucid.xlm._compose import compose_config, list_options
from pellucid.xlm._discovery import broken_families, discover_families

_PACKAGES = (
    "pellucid-xlm",
    "pellucid-families",
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
)
_EXTRAS = {
    "datasets": "datasets",
    "hub": "huggingface-hub",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}


def show_families() -> int:
    """Print every family with where it was found and its experiments."""
    families = discover_families()
    experiments = list_options("experiment")
    for family in families:
        own = {path.stem for path in (family.config_dir / "experiment").glob("*.yaml")}
        shown = ", ".join(name for name in experiments if name in own) or "none"
        print(f"{family.name:<12} {family.module}, by {family.found_by}")  # noqa: T201
        print(f"{'':<12} in {family.config_dir.parent}")  # noqa: T201
        if family.copy_found_by is not None:
            print(f"{'':<12} the same files are listed by {family.copy_found_by}")  # noqa: T201
        print(f"{'':<12} experiments: {shown}")  # noqa: T201
    if not families:
        print("no family was found; pip install pellucid-families")  # noqa: T201
    return 0


def diagnose() -> int:
    """Print versions, devices, families, and every experiment that cannot be composed.

    Returns:
        1 if something is wrong, else 0.
    """
    import torch  # noqa: PLC0415 - heavy

    print(f"python {platform.python_version()}")  # noqa: T201
    for name in _PACKAGES:
        print(f"{name} {_version(name) or 'not installed'}")  # noqa: T201
    for extra, name in _EXTRAS.items():
        print(f"extra {extra}: {_version(name) or 'not installed'}")  # noqa: T201
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    print(f"device: {device}")  # noqa: T201
    problems = list(_problems())
    for problem in problems:
        print(f"problem: {problem}")  # noqa: T201
    print("nothing is wrong" if not problems else f"{len(problems)} problems")  # noqa: T201
    return 1 if problems else 0


def examine(name: str) -> int:
    """Print what is wrong with a family: build its experiments, and try a batch of each.

    Args:
        name: Of the family.

    Returns:
        1 if something is wrong, else 0.

    Raises:
        UnknownNameError: There is no family of that name.
    """
    from pellucid.xlm._trial import try_experiment  # noqa: PLC0415 - heavy

    families = {family.name: family for family in discover_families()}
    if name not in families:
        raise UnknownNameError("family", name, families)
    family = families[name]
    print(f"{name} is {family.module}, found {family.place}")  # noqa: T201
    experiments = sorted(path.stem for path in family.config_dir.glob("experiment/*.yaml"))
    n_wrong = 0
    for experiment in experiments:
        try:
            try_experiment(experiment)
        except Exception as error:
            n_wrong += 1
            kind = "" if isinstance(error, PellucidError) else f"{type(error).__name__}: "
            print(f"problem: experiment {experiment}: {kind}{error}")  # noqa: T201
        else:
            print(f"experiment {experiment}: built, learns from a batch, predicts")  # noqa: T201
    if not experiments:
        print("problem: there is no experiment in configs/experiment")  # noqa: T201
    return 1 if n_wrong or not experiments else 0


def _problems() -> Iterator[str]:
    try:
        families = discover_families()
    except PellucidError as error:
        yield str(error)
        return
    yield from broken_families()
    print(f"families: {', '.join(family.name for family in families) or 'none'}")  # noqa: T201
    for experiment in list_options("experiment"):
        try:
            compose_config([f"experiment={experiment}", "job_name=doctor"])
        except PellucidError as error:
            yield f"experiment {experiment}: {error}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


__all__ = ["diagnose", "examine", "show_families"]
