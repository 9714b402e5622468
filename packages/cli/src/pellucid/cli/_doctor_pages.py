"""A report of the doctor as lines of text."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from pellucid.cli._doctor import Report
from pellucid.cli._installation import PACKAGES, Package
from pellucid.cli._visible import one_line, visible


def render(report: Report) -> str:
    """Return a report as text, for a terminal or a mail."""
    parts = [
        _render_stack(report),
        _section("Devices", _list_devices(report)),
        _section("Packages", _list_packages(report)),
        _section("Not installed", _list_missing(report)),
        _section("Extras that are not installed", _list_extras(report)),
        _section("Plugins", _list_plugins(report)),
        _section("What goes together (optimizers with losses)", _list_matrix(report)),
        _section("Problems", _list_problems(report)),
    ]
    count = len(report.problems)
    end = "nothing is wrong" if not count else f"{count} problem{'s' * (count > 1)}"
    return "\n\n".join([*filter(None, parts), end])


def _render_stack(report: Report) -> str:
    versions = [f"{name} {held or 'not installed'}" for name, held in report.versions.items()]
    return (
        f"Python {report.python} on {report.platform}; {', '.join(versions)}\n"
        f"contracts are checked at run time: {report.checks}"
    )


def _section(title: str, lines: Iterator[str]) -> str:
    held = [f"  {line}" for line in lines]
    return "\n".join([title, *held]) if held else ""


def _list_devices(report: Report) -> Iterator[str]:
    for device in report.devices:
        memory = f", {device.memory_gib} GiB" if device.memory_gib is not None else ""
        yield f"{device.device:<8} {device.name}{memory}"


def _list_packages(report: Report) -> Iterator[str]:
    width = _width([package.name for package in report.packages])
    for package in report.packages:
        yield f"{package.name:<{width}} {package.version:<8} {_list_present(package)}".rstrip()


def _list_present(package: Package) -> str:
    present = [extra.name for extra in package.extras if not extra.lacks]
    return f"with {', '.join(present)}" if present else ""


def _list_missing(report: Report) -> Iterator[str]:
    width = _width(list(report.not_installed.values()))
    for name, command in report.not_installed.items():
        yield f"{command:<{width}}  {PACKAGES[name]}"


def _list_extras(report: Report) -> Iterator[str]:
    rows = [
        (extra.command, "; ".join(extra.lacks))
        for package in report.packages
        for extra in package.extras
        if extra.lacks
    ]
    width = _width([command for command, _ in rows])
    for command, lacks in rows:
        yield f"{command:<{width}}  {lacks}"


def _list_plugins(report: Report) -> Iterator[str]:
    for group, held in groupby(report.plugins, key=lambda plugin: plugin.group):
        found = list(held)
        broken = [plugin.name for plugin in found if plugin.problem is not None]
        failing = f", {len(broken)} cannot be used: {', '.join(broken)}" if broken else ""
        yield f"{visible(group):<24} {len(found) - len(broken)} load{visible(failing)}"


def _list_matrix(report: Report) -> Iterator[str]:
    width = _width(list(report.matrix))
    for model, optimizers in report.matrix.items():
        counts = Counter(verdict for row in optimizers.values() for verdict in row.values())
        yield (
            f"{model:<{width}}  {counts['yes']} pairs, {counts['conditional']} under a condition, "
            f"{counts['no']} not"
        )
    if report.matrix:
        yield "which: pellucid matrix; why not: pellucid matrix --why"


def _list_problems(report: Report) -> Iterator[str]:
    for problem in report.problems:
        yield one_line(f"{problem.where}: {problem.what}")
        yield f"    {one_line(problem.remedy)}"


def _width(texts: list[str]) -> int:
    return max(map(len, texts), default=0)
