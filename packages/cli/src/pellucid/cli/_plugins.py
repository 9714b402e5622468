"""What installed packages register, tried one by one."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Any

from pellucid.cli._installation import GROUP_PREFIX, extra_that_brings
from pellucid.cli._visible import one_line

CLASS_GROUPS = ("pellucid.models", "pellucid.optimizers", "pellucid.losses")
"""The groups whose entries are classes, in the order in which the matrix is made of them."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is broken.

    Attributes:
        where: The package, or the package and what it registers.
        what: What is wrong.
        remedy: What to do about it.
    """

    where: str
    what: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One entry of an entry-point group.

    Attributes:
        group: The group.
        name: The name that is registered.
        value: What it stands for, as `module:attribute`.
        package: The distribution that registers it.
        problem: Why it cannot be used; None if it can.
    """

    group: str
    name: str
    value: str
    package: str
    problem: Problem | None


def try_plugins(found: Iterable[Distribution]) -> list[Plugin]:
    """Import everything that distributions register in Pellucid's groups.

    Args:
        found: The distributions.

    Returns:
        The plugins, sorted by group and name. What they print goes to stderr.
    """
    taken: dict[tuple[str, str], str] = {}
    plugins: list[Plugin] = []
    with contextlib.redirect_stdout(sys.stderr):
        for distribution in found:
            for entry in distribution.entry_points:
                if not entry.group.startswith(GROUP_PREFIX):
                    continue
                plugins.append(_try(distribution, entry, taken))
                taken.setdefault((entry.group, entry.name), distribution.name)
    return sorted(plugins, key=lambda plugin: (plugin.group, plugin.name))


def find_strays(plugins: Iterable[Plugin]) -> Iterator[Problem]:
    """Yield a problem for every group that nothing reads.

    Args:
        plugins: What is registered.
    """
    from pellucid.core import UnknownNameError, names  # noqa: PLC0415 - heavy

    for group, package in sorted({(each.group, each.package) for each in plugins}):
        try:
            names(group)
        except UnknownNameError as error:
            yield Problem(
                where=package,
                what=f"registers in {group!r}, which nothing reads ({one_line(str(error))})",
                remedy=f"tell its authors, or pip uninstall {package}",
            )


def _try(distribution: Distribution, entry: Any, taken: Mapping[tuple[str, str], str]) -> Plugin:
    where = f"{distribution.name}: {entry.name!r} of {entry.group}"
    problem = None
    other = taken.get((entry.group, entry.name))
    if other is not None:
        problem = Problem(
            where=where,
            what=f"{other} registers the same name, and only one of them can be had",
            remedy=f"pip uninstall {distribution.name}, or {other}",
        )
    try:
        part = entry.load()
    # A plugin may fail in any way, and may even end the process.
    except (Exception, SystemExit) as error:
        problem = _explain(distribution, entry, error, where)
    else:
        if problem is None and entry.group in CLASS_GROUPS and not isinstance(part, type):
            problem = Problem(
                where=where,
                what=f"{entry.value!r} is a {type(part).__name__}, not a class",
                remedy="its authors register a class",
            )
    return Plugin(
        group=entry.group,
        name=entry.name,
        value=entry.value,
        package=distribution.name,
        problem=problem,
    )


def _explain(distribution: Distribution, entry: Any, error: BaseException, where: str) -> Problem:
    package = distribution.name
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"needs the module {error.name!r}, which is not installed"
        return Problem(where=where, what=what, remedy=_bring(distribution, entry, error.name))
    if isinstance(error, AttributeError) and error.obj is sys.modules.get(entry.module):
        what = f"{entry.module} has no {entry.attr!r}"
        return Problem(where=where, what=what, remedy=f"pip install --upgrade {package}")
    return Problem(
        where=where,
        what=f"importing it raises {type(error).__name__}: {one_line(str(error))}",
        remedy=(
            f"pip install --upgrade {package}, or pip uninstall {package}; "
            f'python -c "import {entry.module}" shows the traceback'
        ),
    )


def _bring(distribution: Distribution, entry: Any, module: str) -> str:
    package = distribution.name
    extra = extra_that_brings(distribution, module)
    if extra is not None:
        return f'pip install "{package}[{extra}]"'
    if module.partition(".")[0] == entry.module.partition(".")[0]:
        return f"pip install --upgrade {package}: it registers what it does not hold"
    return f"install what provides {module!r}, or pip uninstall {package}"
