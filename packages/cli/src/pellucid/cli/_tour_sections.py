"""What a stage of the tour has to show, as data: figures, tables, curves, grids, commands."""

import dataclasses
from typing import Any, TypeAlias

from pellucid.cli._chart import Chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text.

    Attributes:
        title: What it shows.
        head: The columns' names.
        rows: A text for each column.
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    kind: str = "table"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells that are the darker the larger their value is.

    Attributes:
        title: What it shows.
        head: The columns' names.
        labels: The rows' names.
        cells: For each row, a text and a value from 0 to 1 for each column.
        is_small: Whether cells are squares without text.
    """

    title: str
    head: list[str]
    labels: list[str]
    cells: list[list[tuple[str, float]]]
    is_small: bool = False
    kind: str = "grid"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A loss over steps.

    Attributes:
        title: What it shows.
        chart: Its geometry.
    """

    title: str
    chart: Chart
    kind: str = "curve"


Picture: TypeAlias = Table | Grid | Curve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """What the page shows of one stage.

    Attributes:
        said: What came out, in a sentence or two.
        is_good: Whether the stage reached what it is to show.
        figures: Numbers that stand out, with their names.
        pictures: In their order.
        commands: What makes the numbers again.
        more: A page with more, and its path beside the report.
    """

    said: str
    is_good: bool = True
    figures: list[tuple[str, str]] = dataclasses.field(default_factory=list[tuple[str, str]])
    pictures: list[Picture] = dataclasses.field(default_factory=list[Any])
    commands: list[str] = dataclasses.field(default_factory=list[str])
    more: tuple[str, str] | None = None
