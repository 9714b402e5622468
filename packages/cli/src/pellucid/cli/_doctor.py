"""What is installed, what it runs on, what goes together, and what of it is broken.

No module of Pellucid that imports torch is imported before it is tried: an installation that is
broken is what this is for.
"""

import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.cli._installation import (
    Package,
    find_missing,
    find_packages,
    plugin_distributions,
    version_of,
)
from pellucid.cli._plugins import CLASS_GROUPS, Plugin, Problem, find_strays, try_plugins
from pellucid.cli._visible import one_line

GIB = 2**30

_STACK = ("torch", "transformers", "numpy", "jaxtyping", "beartype")
_CHECKS = {"0": "off", "1": "every function"}

Grid = Mapping[str, Mapping[str, Mapping[str, str]]]
"""The verdict of each model, optimizer and loss."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Something that torch computes on.

    Attributes:
        device: Its name in torch, such as "cuda:0".
        name: What it is.
        memory_gib: Its memory in GiB; None where torch does not tell.
    """

    device: str
    name: str
    memory_gib: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `examine` finds.

    Attributes:
        python: The version of Python.
        platform: System and machine.
        checks: What of the contracts is checked at run time.
        versions: Versions of the libraries below; None for what is not installed.
        devices: What torch computes on, the CPU first.
        packages: What of Pellucid is installed, and packages with plugins.
        not_installed: What of Pellucid is not, by the command that installs it.
        plugins: Everything that is registered.
        matrix: The verdict of each model, optimizer and loss that load.
        problems: What is broken.
    """

    python: str
    platform: str
    checks: str
    versions: Mapping[str, str | None]
    devices: tuple[Device, ...]
    packages: tuple[Package, ...]
    not_installed: Mapping[str, str]
    plugins: tuple[Plugin, ...]
    matrix: Grid
    problems: tuple[Problem, ...]


def examine() -> Report:
    """Look at this installation; everything that is registered is imported."""
    packages = find_packages()
    problems = list(_find_lacks(packages))
    devices = _find_devices(problems)
    plugins = tuple(try_plugins(plugin_distributions()))
    problems += [plugin.problem for plugin in plugins if plugin.problem is not None]
    matrix = _compare(plugins, problems)
    switch = os.environ.get("PELLUCID_TYPECHECK", "")
    return Report(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        checks=_CHECKS.get(switch, "what crosses a package boundary"),
        versions={name: version_of(name) for name in _STACK},
        devices=devices,
        packages=packages,
        not_installed={name: f"pip install {name}" for name in find_missing()},
        plugins=plugins,
        matrix=matrix,
        problems=tuple(problems),
    )


def to_json(report: Report) -> str:
    """Return the report as JSON, with `ok` saying whether nothing is broken."""
    return json.dumps({"ok": not report.problems, **dataclasses.asdict(report)}, indent=1)


def _find_lacks(packages: tuple[Package, ...]) -> Iterator[Problem]:
    for package in packages:
        for lack in package.lacks:
            yield Problem(
                where=package.name, what=lack, remedy=f"pip install --upgrade {package.name}"
            )


def _find_devices(problems: list[Problem]) -> tuple[Device, ...]:
    try:
        import torch  # noqa: PLC0415 - heavy, and it may be broken
    except Exception as error:
        what = f"importing it raises {type(error).__name__}: {one_line(str(error))}"
        problems.append(
            Problem(where="torch", what=what, remedy="pip install --force-reinstall torch")
        )
        return ()
    cpu = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    devices = [Device(device="cpu", name=cpu, memory_gib=None)]
    for index in range(torch.cuda.device_count()):
        held: Any = torch.cuda.get_device_properties(index)
        gib = round(held.total_memory / GIB, 1)
        devices.append(Device(device=f"cuda:{index}", name=held.name, memory_gib=gib))
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type != "cuda":
        devices.append(Device(device=str(accelerator), name=accelerator.type, memory_gib=None))
    return tuple(devices)


def _compare(plugins: tuple[Plugin, ...], problems: list[Problem]) -> Grid:
    """Return the matrix of the plugins that load, and note which groups nobody reads."""
    sound = {
        group: [p.name for p in plugins if p.group == group and p.problem is None]
        for group in CLASS_GROUPS
    }
    try:
        from pellucid.core import compatibility_matrix  # noqa: PLC0415 - heavy

        problems += find_strays(plugins)
        models, optimizers, losses = (sound[group] for group in CLASS_GROUPS)
        matrix = compatibility_matrix(models=models, optimizers=optimizers, losses=losses)
    except (Exception, SystemExit) as error:  # advice imports plugins, whatever they do
        what = f"the matrix raises {type(error).__name__}: {one_line(str(error))}"
        remedy = "pip install --upgrade pellucid-core; pellucid --debug matrix tells more"
        problems.append(Problem(where="pellucid-core", what=what, remedy=remedy))
        return {}
    grid: dict[str, dict[str, dict[str, str]]] = {}
    for cell in matrix.cells:
        row = grid.setdefault(cell.model, {}).setdefault(cell.optimizer, {})
        row[cell.loss] = cell.report.verdict.value
    return grid
