"""The tour: stages one after another, each by itself, and one page that shows them all."""

import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from rich.console import Console

from pellucid.cli._pages import page_template
from pellucid.cli._progress import make_console
from pellucid.cli._rundir import demo_path, refuse_existing, write_whole
from pellucid.cli._tour_sections import Section
from pellucid.cli._visible import one_line
from pellucid.cli._waiting import waiting
from pellucid.core import UnknownNameError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Stage: TypeAlias = Callable[[Path, int, Console], Section]

STAGES: Mapping[str, str] = MappingProxyType(
    {
        "optimize": "Words that change an answer",
        "inspect": "Where inside the model it changes",
        "linearize": "The same model with linear attention",
        "train": "A model that fills in masks, trained and watched",
    }
)
"""Their names and headlines, in their order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """What became of one stage.

    Attributes:
        name: The stage.
        title: Its headline.
        seconds: How long it took.
        section: What it has to show; None if it failed.
        error: Why it failed.
    """

    name: str
    title: str
    seconds: float
    section: Section | None = None
    error: str | None = None


def choose_stages(only: Sequence[str]) -> list[str]:
    """Return the stages that are meant, in their order; all if none is named.

    Args:
        only: Names, several of them with commas between.

    Raises:
        UnknownNameError: (a ValueError) If there is no such stage.
    """
    wanted = [name.strip() for names in only for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in STAGES:
            raise UnknownNameError("stage", name, STAGES)
    return [name for name in STAGES if not wanted or name in wanted]


def take_tour(stages: Sequence[str], seed: int, out: Path | None) -> int:
    """Run stages, and write the page after each of them.

    Args:
        stages: Their names.
        seed: Of all that is drawn.
        out: The directory, which must not exist; one under `runs/` when omitted.

    Returns:
        The exit code: 0, 1 when a stage failed or missed its goal, 130 after Ctrl-C.

    Raises:
        ArgumentError: (a ValueError) If the directory exists.
    """
    path = out or demo_path()
    refuse_existing(path)
    path = path.absolute()
    path.mkdir(parents=True)
    console, visits, code = make_console(stderr=True), list[Visit](), 0
    for number, name in enumerate(stages, start=1):
        console.print(f"\n[{number}/{len(stages)}] {STAGES[name]}", style="bold")
        try:
            visit = _visit(name, path, seed, console)
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
            break
        visits.append(visit)
        if visit.section is None or not visit.section.is_good:
            code = EXIT_FAILED
        _write(visits, stages, seed, path)
    _write(visits, stages, seed, path)
    _tell(visits, path)
    return code


def _visit(name: str, out: Path, seed: int, console: Console) -> Visit:
    began = time.perf_counter()
    title = STAGES[name]
    try:
        with waiting(title):
            stage = _load(name)
        section, error = stage(out, seed, console), None
    except Exception as problem:
        section, error = None, f"{type(problem).__name__}: {one_line(str(problem))}"
        console.print(f"This stage failed: {error}", style="bold red")
    seconds = time.perf_counter() - began
    return Visit(name=name, title=title, seconds=seconds, section=section, error=error)


def _load(name: str) -> Stage:
    return getattr(importlib.import_module(f"pellucid.cli._tour_{name}"), name)


def _write(visits: Sequence[Visit], stages: Sequence[str], seed: int, out: Path) -> None:
    missing = [STAGES[name] for name in stages[len(visits) :]]
    page = page_template("tour.html.jinja").render(
        visits=visits,
        missing=missing,
        skipped=[name for name in STAGES if name not in stages],
        seed=seed,
        version=version("pellucid-cli"),
    )
    write_whole(out / "report.html", page)


def _tell(visits: Sequence[Visit], out: Path) -> None:
    console = make_console()
    for visit in visits:
        state = "failed" if visit.section is None else "done"
        console.print(f"{visit.name:>10}  {visit.seconds:5.1f} s  {state}")
        for command in visit.section.commands if visit.section else ():
            console.print(f"            the same: {command}")
    console.print(f"Report: {out / 'report.html'}")
