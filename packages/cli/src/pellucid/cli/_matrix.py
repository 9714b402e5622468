"""The compatibility matrix, as tables for the eye and as JSON for scripts."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from pellucid.cli._progress import make_console
from pellucid.core import CompatibilityMatrix, MatrixCell, Verdict, compatibility_matrix

_NOTHING = "-"


def find(
    models: Sequence[str] | None, optimizers: Sequence[str] | None, losses: Sequence[str] | None
) -> CompatibilityMatrix:
    """Return the matrix of what is registered, or of the parts that are named.

    Raises:
        UnknownNameError: If a name is not registered; near matches are offered.
        MissingDependencyError: If what is named cannot be imported here.
    """
    return compatibility_matrix(
        models=models or None, optimizers=optimizers or None, losses=losses or None
    )


def to_json(matrix: CompatibilityMatrix) -> str:
    """Return the cells, and what is left out, as JSON."""
    held = {
        "cells": [_to_dict(cell) for cell in matrix.cells],
        "unavailable": dict(matrix.unavailable),
    }
    return json.dumps(held, indent=1)


def show(matrix: CompatibilityMatrix, *, why: bool, console: Console | None = None) -> None:
    """Print a table for each model, and on demand the reasons.

    Args:
        matrix: The matrix.
        why: Whether to print what is missing and which conditions there are.
        console: Where to print; the standard output when omitted.
    """
    console = console or make_console()
    for model, cells in groupby(matrix.cells, key=lambda cell: cell.model):
        held = list(cells)
        console.print(_make_table(model, matrix, held))
        if why:
            for line in _explain(held):
                console.print(line)
        console.print()
    counts = [sum(cell.report.verdict is verdict for cell in matrix.cells) for verdict in Verdict]
    console.print(
        f"{len(matrix.cells)} triples: {counts[0]} go together, {counts[1]} under a condition (*), "
        f"{counts[2]} do not." + ("" if why else " --why says why.")
    )
    for name, reason in matrix.unavailable.items():
        console.print(f"left out: {name}: {reason}")


def _make_table(model: str, matrix: CompatibilityMatrix, cells: list[MatrixCell]) -> Table:
    table = Table(title=f"{model} ({matrix.models[model].__name__})", title_justify="left")
    table.add_column("optimizer", no_wrap=True)
    table.add_column("losses")
    for optimizer, row in groupby(cells, key=lambda cell: cell.optimizer):
        marked = [_mark(cell) for cell in row if cell.report.compatible]
        table.add_row(optimizer, ", ".join(marked) or _NOTHING)
    return table


def _mark(cell: MatrixCell) -> str:
    return f"{cell.loss}*" if cell.report.verdict is Verdict.CONDITIONAL else cell.loss


def _explain(cells: list[MatrixCell]) -> Iterator[str]:
    """Yield a line for each reason and condition, with the pairs that it concerns."""
    concerned: dict[str, list[str]] = {}
    for cell in cells:
        report = cell.report
        for text in (*report.reasons, *map(str, report.conditions), *report.notes):
            concerned.setdefault(text, []).append(f"{cell.optimizer} + {cell.loss}")
    for text, pairs in concerned.items():
        shown = pairs[0] if len(pairs) == 1 else f"{pairs[0]} and {len(pairs) - 1} more"
        yield f"- {shown}: {text}"


def _to_dict(cell: MatrixCell) -> dict[str, Any]:
    report = cell.report
    return {
        "model": cell.model,
        "optimizer": cell.optimizer,
        "loss": cell.loss,
        "verdict": report.verdict.value,
        "conditions": [dataclasses.asdict(each) for each in report.conditions],
        "lacks": [lack.value for lack in report.lacks],
        "reasons": list(report.reasons),
        "notes": list(report.notes),
    }
