"""Write which models, optimizers and losses go together, from what they declare.

    uv run python tools/compat_matrix.py           # writes docs/compatibility.md
    uv run python tools/compat_matrix.py --check   # fails if the page is not current

`pellucid matrix` shows the same for what is installed; `tests/test_compatibility.py` tries it.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pellucid.core import (
    BaseLoss,
    CompatibilityMatrix,
    Condition,
    Flow,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    Lack,
    LogitsTokenAccessMixin,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    MatrixCell,
    TokenAccessMixin,
    Verdict,
    compatibility_matrix,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "compatibility.md"

_ACCESS: Mapping[type, str] = {
    LossTextAccessMixin: "losses of texts",
    TokenAccessMixin: "tokenizer",
    LossTokenAccessMixin: "losses of token ids",
    GradientTokenAccessMixin: "gradients at token ids",
    GradientEmbedAccessMixin: "gradients at embeddings",
    LogitsTokenAccessMixin: "logits",
}
_LETTERS: Mapping[Lack, str] = {Lack.ACCESS: "A", Lack.GRADIENT: "G", Lack.FIELD: "F"}

_HEAD = """# Which models, optimizers and losses go together

Written by `tools/compat_matrix.py` from what the packages declare
([decision 5](decisions/0005-capabilities-are-declared.md)). `pellucid matrix` shows the same for
what is installed, and with `--why` the reasons. `tests/test_compatibility.py` makes every triple on
tiny models: what goes together takes two steps, what does not is refused when the optimizer is
made.

{n_cells} triples: {n_yes} go together, {n_conditional} do under a condition, {n_no} do not.

| in a cell | means |
|---|---|
| yes | they go together as they are made by default |
| 1, 2, ... | they do once an [argument](#conditions) is given |
| A | the model lacks an access that the optimizer requires |
| G | the optimizer takes gradients of the loss, which has none |
| F | the loss reads a field that the model does not provide in the optimizer's flow |
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with `--check` compare it; 1 if it is not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    matrix = compatibility_matrix()
    if matrix.unavailable:
        for name, reason in matrix.unavailable.items():
            print(f"{name}: {reason}", file=sys.stderr)
        return 1
    page = render(matrix)
    if not options.check:
        options.out.write_text(page, encoding="utf-8")
        return 0
    if options.out.exists() and options.out.read_text(encoding="utf-8") == page:
        return 0
    print(f"{options.out} is not current. Run: uv run python tools/compat_matrix.py")
    return 1


def render(matrix: CompatibilityMatrix) -> str:
    """Return the page in Markdown."""
    counts = [sum(cell.report.verdict is verdict for cell in matrix.cells) for verdict in Verdict]
    head = _HEAD.format(
        n_cells=len(matrix.cells), n_yes=counts[0], n_conditional=counts[1], n_no=counts[2]
    )
    numbers = _number_conditions(matrix)
    parts = [head]
    for model, cells in groupby(matrix.cells, key=lambda cell: cell.model):
        grid = _render_grid(list(cells), list(matrix.losses), numbers)
        parts.append(f"## {model}\n\n{_name(matrix.models[model])}\n\n{grid}")
    parts.append(f"## Conditions\n\n{_render_conditions(numbers)}")
    parts.append(f"## What models declare\n\n{_render_models(matrix)}")
    parts.append(f"## What optimizers require\n\n{_render_optimizers(matrix)}")
    parts.append(f"## What losses read\n\n{_render_losses(matrix)}")
    return "\n".join(parts)


def _number_conditions(matrix: CompatibilityMatrix) -> dict[tuple[str, str], tuple[int, Condition]]:
    numbers: dict[tuple[str, str], tuple[int, Condition]] = {}
    for cell in matrix.cells:
        for condition in cell.report.conditions:
            key = (condition.owner, condition.argument)
            numbers.setdefault(key, (len(numbers) + 1, condition))
    return numbers


def _render_grid(
    cells: Iterable[MatrixCell],
    losses: Sequence[str],
    numbers: Mapping[tuple[str, str], tuple[int, Condition]],
) -> str:
    rows = [
        [optimizer, *(_mark(cell, numbers) for cell in row)]
        for optimizer, row in groupby(cells, key=lambda cell: cell.optimizer)
    ]
    return _table(["", *losses], rows)


def _mark(cell: MatrixCell, numbers: Mapping[tuple[str, str], tuple[int, Condition]]) -> str:
    report = cell.report
    if report.verdict is Verdict.NO:
        return " ".join(letter for lack, letter in _LETTERS.items() if lack in report.lacks)
    found = sorted(numbers[each.owner, each.argument][0] for each in report.conditions)
    return ", ".join(map(str, found)) or "yes"


def _render_conditions(numbers: Mapping[tuple[str, str], tuple[int, Condition]]) -> str:
    rows = [
        [str(number), f"`{owner}`", f"`{argument}=`", condition.advice]
        for (owner, argument), (number, condition) in numbers.items()
    ]
    return _table(["", "of", "argument", "what to pass"], rows)


def _render_models(matrix: CompatibilityMatrix) -> str:
    rows: list[list[str]] = []
    for name, model in matrix.models.items():
        able = [text for access, text in _ACCESS.items() if issubclass(model, access)]
        provides = dict(model.provides or {})
        fields = [_list_fields(model, provides.get(flow)) for flow in Flow]
        rows.append([name, ", ".join(able), *fields])
    return _table(["model", "access", *(f"fields from {flow.value}" for flow in Flow)], rows)


def _list_fields(model: Any, fields: Mapping[str, Any] | None) -> str:
    if fields is None:
        return "not declared"
    optional = model.optional_fields
    return ", ".join(f"`{name}`" + (" (option)" if name in optional else "") for name in fields)


def _render_optimizers(matrix: CompatibilityMatrix) -> str:
    rows = [
        [
            name,
            _name(optimizer),
            ", ".join(_describe(access) for access in optimizer.model_requirements),
            "; ".join(f"`{role.argument}`: {role.part}" for role in optimizer.roles),
        ]
        for name, optimizer in matrix.optimizers.items()
    ]
    return _table(["optimizer", "class", "of the model", "of the model or another part"], rows)


def _describe(access: type) -> str:
    return _ACCESS.get(access, access.__name__)


def _render_losses(matrix: CompatibilityMatrix) -> str:
    rows = [
        [name, _name(loss), ", ".join(f"`{field}`" for field in _reads(loss)), _has_gradient(loss)]
        for name, loss in matrix.losses.items()
    ]
    return _table(["loss", "class", "reads", "gradient"], rows)


def _reads(loss: type[BaseLoss]) -> Iterator[str]:
    yield from sorted(loss().reads().required)


def _has_gradient(loss: type[BaseLoss]) -> str:
    return "yes" if loss().is_differentiable else "no"


def _name(part: Any) -> str:
    return f"`{part.__module__.partition('._')[0]}.{part.__name__}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
